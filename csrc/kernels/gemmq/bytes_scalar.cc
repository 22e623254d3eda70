#include "kernels/gemmq/bytes_generic.h"

namespace mrt {
namespace {

// In floats: no sum of a block has more digits than they have.
struct Portable {
  using V = F32x4;
  static constexpr int64_t kStep = kPanel;  // two k's
  static constexpr int kVectors = kPanel / V::width;

  struct Weights {
    V low[kVectors], high[kVectors];
    MRT_INLINE explicit Weights(const uint8_t* w) {
      for (int i = 0; i < kVectors; ++i) {
        const I32x4 both = widen_u8(w + i * V::width, I32x4{});
        low[i] = V::from_int(both & I32x4::set(15));
        high[i] = V::from_int(both.shr<4>());
      }
    }
  };
  struct Activations {
    V first, second;
    MRT_INLINE void load(const int8_t* bytes) { first = V::set(bytes[0]), second = V::set(bytes[1]); }
  };
  struct Sums {
    V sum[kVectors] = {V::zero(), V::zero(), V::zero(), V::zero()};
    MRT_INLINE void add(const Weights& w, const Activations& x) {
      for (int i = 0; i < kVectors; ++i) sum[i] = sum[i] + (w.low[i] * x.first + w.high[i] * x.second);
    }
    MRT_INLINE V floats(int i) const { return sum[i]; }
  };
};

}  // namespace

extern const BytesTable kBytes_scalar = bytes_table<Portable>();
}  // namespace mrt
