#include "kernels/gemmq/bytes_generic.h"

namespace mrt {
namespace {

// vpmaddubsw multiplies a column's two k's of a byte row at a time. Sums of 16 bits hold the eight of a block that meet
// in one: 8 * 2 * 15 * 127 = 30,480.
struct Avx2 {
  using V = F32x8;
  static constexpr int64_t kStep = 32;  // four k's: two byte rows, one in each half

  struct Weights {
    __m256i left, right;  // columns 0 to 7 and 8 to 15, (k, k + 1) each
    MRT_INLINE explicit Weights(const uint8_t* w) {
      const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)), mask = _mm256_set1_epi8(15);
      const __m256i low = _mm256_and_si256(both, mask), high = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
      left = _mm256_unpacklo_epi8(low, high);
      right = _mm256_unpackhi_epi8(low, high);
    }
  };
  struct Activations {
    __m256i pairs;
    MRT_INLINE void load(const int8_t* bytes) {
      int32_t four;
      std::memcpy(&four, bytes, sizeof(four));
      const __m256i places =
          _mm256_set_epi64x(0x0302030203020302, 0x0302030203020302, 0x0100010001000100, 0x0100010001000100);
      pairs = _mm256_shuffle_epi8(_mm256_set1_epi32(four), places);
    }
  };
  struct Sums {
    __m256i left = _mm256_setzero_si256(), right = _mm256_setzero_si256();
    MRT_INLINE void add(const Weights& w, const Activations& x) {
      left = _mm256_add_epi16(left, _mm256_maddubs_epi16(w.left, x.pairs));
      right = _mm256_add_epi16(right, _mm256_maddubs_epi16(w.right, x.pairs));
    }
    MRT_INLINE V floats(int i) const {
      const __m256i s = i == 0 ? left : right;
      const __m256i a = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(s));
      return V::from_int({_mm256_add_epi32(a, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(s, 1)))});
    }
  };
};

}  // namespace

extern const BytesTable kBytes_avx2 = bytes_table<Avx2>();
}  // namespace mrt
