// lookup, NEON: 16 bytes at a time, in four steps of tbl and tbx, each with 64 entries of the table. Both take an index
// beyond those for none of theirs; tbl then gives 0, tbx what was there before.
#include <arm_neon.h>

#include "kernels/lookup/lookup_kernels.h"

namespace mrt {
namespace {

constexpr int64_t kVector = 16;

void run(const uint8_t* table, const uint8_t* x, int64_t n, uint8_t* y) {
  const uint8x16x4_t parts[4] = {vld1q_u8_x4(table), vld1q_u8_x4(table + 64), vld1q_u8_x4(table + 128),
                                 vld1q_u8_x4(table + 192)};
  const uint8x16_t step = vdupq_n_u8(64);
  int64_t i = 0;
  for (; i + kVector <= n; i += kVector) {
    uint8x16_t at = vld1q_u8(x + i);
    uint8x16_t found = vqtbl4q_u8(parts[0], at);
    for (int part = 1; part < 4; ++part) {
      at = vsubq_u8(at, step);
      found = vqtbx4q_u8(found, parts[part], at);
    }
    vst1q_u8(y + i, found);
  }
  for (; i < n; ++i) y[i] = table[x[i]];
}

}  // namespace

const LookupKernel kLookup_neon = {run};

}  // namespace mrt
