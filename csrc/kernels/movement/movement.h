// What the operators that only move data share: any dtype of 1, 2, 4 or 8 bytes is a string of bytes to them.
#pragma once

#include "kernels/checks.h"

namespace mrt {

// axis in [0, rank), counted from the end where negative; -1 and a sentence if it is not there.
Status check_axis(const char* contract, int64_t axis, int32_t rank, int32_t* out);

// A copy of small runs spelled out, so that it is not a call.
inline void copy_run(char* dst, const char* src, size_t bytes) {
  switch (bytes) {
    case 1:
      *dst = *src;
      return;
    case 2:
      __builtin_memcpy(dst, src, 2);
      return;
    case 4:
      __builtin_memcpy(dst, src, 4);
      return;
    case 8:
      __builtin_memcpy(dst, src, 8);
      return;
    case 12:
      __builtin_memcpy(dst, src, 12);
      return;
    case 16:
      __builtin_memcpy(dst, src, 16);
      return;
    default:
      __builtin_memcpy(dst, src, bytes);
  }
}

// Dense y filled with runs of x: run number (i_0, ..., i_n) comes from byte sum of i_d * x_stride[d].
struct StridedCopy {
  int32_t rank;
  int64_t extent[MRT_MAX_RANK];
  int64_t x_stride[MRT_MAX_RANK];  // in bytes; may be negative
  int64_t run;                     // in bytes
};
void copy_strided(const StridedCopy& c, const char* x, char* y, KernelContext& ctx);

// Bytes that one piece of parallel work moves at least.
constexpr int64_t kMoveGrain = 64 * 1024;

}  // namespace mrt
