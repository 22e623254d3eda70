// One growable block of aligned memory. Growing does not keep the contents.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "base/hooks.h"

namespace mrt {

constexpr size_t kAlignment = 64;  // a cache line; generated code reads whole vectors from tensors' starts

// A buffer that spans whole pages of this size asks the system for them: a convolution over lines far apart touches
// more small pages than the CPU keeps translations for (measured on Zen 3: 0.88 to 0.97 of its peak for 3 x 3 of 64
// channels). The rest of the buffer stays on small pages, so that no memory is taken for it.
constexpr size_t kHugePage = size_t{2} << 20;

constexpr size_t align_up(size_t n, size_t alignment) { return (n + alignment - 1) & ~(alignment - 1); }

class Arena {
 public:
  Arena() = default;
  Arena(Arena&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Arena& operator=(Arena&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { release(data_, bytes_); }

  // Makes room for `bytes`; false if there is no memory (what was there is then gone).
  bool reserve(size_t bytes) {
    if (bytes <= bytes_) return true;
    release(data_, bytes_);
    data_ = nullptr;
    bytes_ = 0;
    if (bytes > SIZE_MAX / 2) return false;
    const size_t rounded = align_up(bytes, kAlignment);
    data_ = static_cast<uint8_t*>(allocate(rounded, rounded >= kHugePage ? kHugePage : kAlignment));
    if (!data_) return false;
    bytes_ = rounded;
#if defined(MADV_HUGEPAGE)
    // A hint: a system that does not know it, or has no such pages, is as right without.
    if (rounded >= kHugePage) (void)madvise(data_, rounded / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
    return true;
  }

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

// An arena that keeps its old blocks when it grows, so that no address it ever gave out comes to be another's while it
// lives: whether a pointer is one of its own has an answer. It grows by doubling: what is kept is no more than what is
// used.
class KeptArena {
 public:
  bool reserve(size_t bytes) {
    if (bytes <= now_.bytes()) return true;
    Arena larger;
    if (bytes > SIZE_MAX / 2 || !larger.reserve(bytes < 2 * now_.bytes() ? 2 * now_.bytes() : bytes)) return false;
    if (now_.data()) old_.push_back(std::move(now_));
    now_ = std::move(larger);
    return true;
  }
  uint8_t* data() const { return now_.data(); }
  size_t bytes() const {
    size_t total = now_.bytes();
    for (const Arena& a : old_) total += a.bytes();
    return total;
  }
  bool owns(const void* p) const {
    for (const Arena& a : old_)
      if (within(a, p)) return true;
    return within(now_, p);
  }

 private:
  static bool within(const Arena& a, const void* p) { return a.data() && p >= a.data() && p < a.data() + a.bytes(); }
  Arena now_;
  std::vector<Arena> old_;
};

}  // namespace mrt
