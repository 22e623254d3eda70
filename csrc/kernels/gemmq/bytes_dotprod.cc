#include <arm_neon.h>

#include "kernels/gemmq/bytes_generic.h"

namespace mrt {
namespace {

// sdot adds a column's four k's, those of two byte rows.
struct Dotprod {
  using V = F32x4n;
  static constexpr int64_t kStep = 2 * kPanel;  // four k's

  struct Weights {
    int8x16_t four[4];  // of each four columns
    MRT_INLINE explicit Weights(const uint8_t* w) {
      const uint8x16_t mask = vdupq_n_u8(15), first = vld1q_u8(w), second = vld1q_u8(w + kPanel);
      const uint8x16_t k0 = vandq_u8(first, mask), k1 = vshrq_n_u8(first, 4);
      const uint8x16_t k2 = vandq_u8(second, mask), k3 = vshrq_n_u8(second, 4);
      const uint16x8_t left01 = vreinterpretq_u16_u8(vzip1q_u8(k0, k1)),
                       right01 = vreinterpretq_u16_u8(vzip2q_u8(k0, k1));
      const uint16x8_t left23 = vreinterpretq_u16_u8(vzip1q_u8(k2, k3)),
                       right23 = vreinterpretq_u16_u8(vzip2q_u8(k2, k3));
      four[0] = vreinterpretq_s8_u16(vzip1q_u16(left01, left23));
      four[1] = vreinterpretq_s8_u16(vzip2q_u16(left01, left23));
      four[2] = vreinterpretq_s8_u16(vzip1q_u16(right01, right23));
      four[3] = vreinterpretq_s8_u16(vzip2q_u16(right01, right23));
    }
  };
  struct Activations {
    int8x16_t bytes;
    MRT_INLINE void load(const int8_t* from) {
      int32_t four;
      std::memcpy(&four, from, sizeof(four));
      bytes = vreinterpretq_s8_s32(vdupq_n_s32(four));
    }
  };
  struct Sums {
    int32x4_t sum[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    MRT_INLINE void add(const Weights& w, const Activations& x) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) sum[i] = vdotq_s32(sum[i], w.four[i], x.bytes);
    }
    MRT_INLINE V floats(int i) const { return V::from_int({sum[i]}); }
  };
};

}  // namespace

extern const BytesTable kBytes_dotprod = bytes_table<Dotprod>();
}  // namespace mrt
