#include "artifact/locked_bytes.h"

#include <sys/mman.h>

#include <cstring>

namespace mrt {

bool LockedBytes::reserve(size_t size, bool must) {
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return false;
  data_ = static_cast<uint8_t*>(data);
  size_ = size;
#if defined(MADV_DONTDUMP)
  (void)madvise(data_, size_, MADV_DONTDUMP);
#endif
#if defined(MADV_HUGEPAGE)
  (void)madvise(data_, size_, MADV_HUGEPAGE);  // fewer faults; a hint
#endif
  return mlock(data_, size_) == 0 || !must;
}

LockedBytes::~LockedBytes() {
  if (!data_) return;
  std::memset(data_, 0, size_);
  __asm__ __volatile__("" : : "r"(data_) : "memory");  // the zeros are wanted, though nobody reads them
  munmap(data_, size_);
}

}  // namespace mrt
