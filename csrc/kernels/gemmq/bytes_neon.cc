#include <arm_neon.h>

#include "kernels/gemmq/bytes_generic.h"

namespace mrt {
namespace {

// smlal multiplies a column's two k's of a byte row at a time. Sums of 16 bits hold the sixteen of a block that meet in
// one: 16 * 15 * 127 = 30,480.
struct Neon {
  using V = F32x4n;
  static constexpr int64_t kStep = kPanel;  // two k's

  struct Weights {
    int8x16_t left, right;  // columns 0 to 7 and 8 to 15, (k, k + 1) each
    MRT_INLINE explicit Weights(const uint8_t* w) {
      const uint8x16_t both = vld1q_u8(w), low = vandq_u8(both, vdupq_n_u8(15)), high = vshrq_n_u8(both, 4);
      left = vreinterpretq_s8_u8(vzip1q_u8(low, high));
      right = vreinterpretq_s8_u8(vzip2q_u8(low, high));
    }
  };
  struct Activations {
    int8x16_t pairs;
    MRT_INLINE void load(const int8_t* bytes) {
      int16_t two;
      std::memcpy(&two, bytes, sizeof(two));
      pairs = vreinterpretq_s8_s16(vdupq_n_s16(two));
    }
  };
  struct Sums {
    int16x8_t sum[4] = {vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s16(0)};
    MRT_INLINE void add(const Weights& w, const Activations& x) {
      sum[0] = vmlal_s8(sum[0], vget_low_s8(w.left), vget_low_s8(x.pairs));
      sum[1] = vmlal_high_s8(sum[1], w.left, x.pairs);
      sum[2] = vmlal_s8(sum[2], vget_low_s8(w.right), vget_low_s8(x.pairs));
      sum[3] = vmlal_high_s8(sum[3], w.right, x.pairs);
    }
    MRT_INLINE V floats(int i) const { return V::from_int({vpaddlq_s16(sum[i])}); }
  };
};

}  // namespace

extern const BytesTable kBytes_neon = bytes_table<Neon>();
}  // namespace mrt
