// Memory for what is a secret at rest: kept out of swap and of core dumps, and cleared before it is given back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace mrt {

class LockedBytes {
 public:
  LockedBytes() = default;
  LockedBytes(LockedBytes&& other) noexcept { *this = std::move(other); }
  LockedBytes& operator=(LockedBytes&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~LockedBytes();
  // Pages of its own, zeros. False, with errno, if there is no memory, or it cannot be locked though it `must` be.
  bool reserve(size_t size, bool must);

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace mrt
