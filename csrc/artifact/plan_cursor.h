// Reading and writing of what plan.inc's records are made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "artifact/utf8.h"

namespace mrt {
namespace records {

// Reads until the first thing that does not fit; then it stays failed and remembers where.
class Cursor {
 public:
  // Of a plan of this version; records are read as they were then.
  Cursor(const uint8_t* data, size_t size, uint32_t version) : data_(data), size_(size), version_(version) {}
  bool failed() const { return failed_; }
  size_t left() const { return size_ - at_; }
  size_t at() const { return at_; }
  uint32_t version() const { return version_; }
  const char* field() const { return field_; }  // the one that failed
  const char* fault() const { return fault_; }  // and how

  bool take(void* out, size_t bytes, const char* field) {
    if (failed_ || left() < bytes) return refuse(field, "does not fit");
    std::memcpy(out, data_ + at_, bytes);
    at_ += bytes;
    return true;
  }
  bool count(uint32_t* out, size_t element_bytes, const char* field) {
    return take(out, 4, field) && (*out <= left() / element_bytes || refuse(field, "counts more than fits"));
  }
  bool text(std::string* out, const char* field) {
    uint32_t length = 0;
    if (!count(&length, 1, field)) return false;
    if (!is_text(data_ + at_, length)) return refuse(field, "is not text");
    out->assign(reinterpret_cast<const char*>(data_ + at_), length);
    at_ += length;
    return true;
  }
  bool refuse(const char* field, const char* fault) {
    if (!failed_) field_ = field, fault_ = fault;
    failed_ = true;
    return false;
  }

 private:
  const uint8_t* data_;
  size_t size_;
  uint32_t version_;
  size_t at_ = 0;
  bool failed_ = false;
  const char* field_ = "";
  const char* fault_ = "";
};

template <typename T, std::enable_if_t<std::is_arithmetic<T>::value, int> = 0>
bool read(Cursor& c, T* out, const char* field) {
  return c.take(out, sizeof(T), field);
}
inline bool read(Cursor& c, std::string* out, const char* field) { return c.text(out, field); }

using Bytes = std::vector<uint8_t>;

template <typename T, std::enable_if_t<std::is_arithmetic<T>::value || std::is_enum<T>::value, int> = 0>
void write(Bytes& b, const T& value) {
  const uint8_t* p = reinterpret_cast<const uint8_t*>(&value);
  b.insert(b.end(), p, p + sizeof(T));
}
inline void write(Bytes& b, const std::string& text) {
  write(b, static_cast<uint32_t>(text.size()));
  b.insert(b.end(), text.begin(), text.end());
}

// The smallest encoding of what a field holds.
template <typename T>
constexpr size_t smallest(const T*, uint32_t) {
  return sizeof(T);
}
constexpr size_t smallest(const std::string*, uint32_t) { return 4; }

}  // namespace records
}  // namespace mrt
