#include "kernels/gemmq/bytes_generic.h"

namespace mrt {
namespace {

// As with AVX2, twice as wide: of a block four products meet in 16 bits, then two such sums.
struct Avx512 {
  using V = F32x16;
  static constexpr int64_t kStep = 64;  // eight k's: four byte rows, one in each quarter

  struct Weights {
    __m512i left, right;  // columns 0 to 7 and 8 to 15, (k, k + 1) each
    MRT_INLINE explicit Weights(const uint8_t* w) {
      const __m512i both = _mm512_loadu_si512(w), mask = _mm512_set1_epi8(15);
      const __m512i low = _mm512_and_si512(both, mask), high = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
      left = _mm512_unpacklo_epi8(low, high);
      right = _mm512_unpackhi_epi8(low, high);
    }
  };
  struct Activations {
    __m512i pairs;
    MRT_INLINE void load(const int8_t* bytes) {
      int64_t eight;
      std::memcpy(&eight, bytes, sizeof(eight));
      const __m512i places =
          _mm512_set_epi64(0x0706070607060706, 0x0706070607060706, 0x0504050405040504, 0x0504050405040504,
                           0x0302030203020302, 0x0302030203020302, 0x0100010001000100, 0x0100010001000100);
      pairs = _mm512_shuffle_epi8(_mm512_set1_epi64(eight), places);
    }
  };
  struct Sums {
    __m512i left = _mm512_setzero_si512(), right = _mm512_setzero_si512();
    MRT_INLINE void add(const Weights& w, const Activations& x) {
      left = _mm512_add_epi16(left, _mm512_maddubs_epi16(w.left, x.pairs));
      right = _mm512_add_epi16(right, _mm512_maddubs_epi16(w.right, x.pairs));
    }
    static MRT_INLINE __m256i halved(__m512i s) {
      return _mm256_add_epi16(_mm512_castsi512_si256(s), _mm512_extracti64x4_epi64(s, 1));
    }
    MRT_INLINE V floats(int) const {
      const __m256i a = halved(left), b = halved(right);
      return V::from_int({_mm512_add_epi32(_mm512_cvtepi16_epi32(_mm256_permute2x128_si256(a, b, 0x20)),
                                           _mm512_cvtepi16_epi32(_mm256_permute2x128_si256(a, b, 0x31)))});
    }
  };
};

}  // namespace

extern const BytesTable kBytes_avx512 = bytes_table<Avx512>();
}  // namespace mrt
