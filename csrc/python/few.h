// A short array of a length that is known only at run time.
#pragma once

#include <cstddef>
#include <new>

namespace maas_rt_python {

// n elements on the stack, or on the heap where a model has very many inputs.
template <typename T, size_t N>
class Few {
 public:
  explicit Few(size_t n)
      : data_(n <= N ? reinterpret_cast<T*>(local_) : static_cast<T*>(operator new(n * sizeof(T)))), n_(n) {
    for (size_t i = 0; i < n_; ++i) new (data_ + i) T();
  }
  ~Few() {
    for (size_t i = 0; i < n_; ++i) data_[i].~T();
    if (reinterpret_cast<T*>(local_) != data_) operator delete(data_);
  }
  Few(const Few&) = delete;
  Few& operator=(const Few&) = delete;
  T& operator[](size_t i) { return data_[i]; }
  T* data() { return data_; }

 private:
  alignas(T) unsigned char local_[N * sizeof(T)];
  T* data_;
  size_t n_;
};

}  // namespace maas_rt_python
