// Whether a sum of two bytes with scales of their own can be made bytes by two multiply-adds and be the same to the
// bit; see QSum. Found by trial of all pairs, when a layer is prepared. Included by tile_avx512.cc.
#pragma once

#include <cstring>

#include "kernels/qgemm/tile.h"
#include "simd/vec.h"

namespace mrt {
namespace {

// The pairs of a term and a byte for which the quick form of a sum must be the sum.
class Pairs {
 public:
  explicit Pairs(const QSum& s) {
    for (int i = 0; i < kVectors; ++i) {
      const __m512i counted = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      const __m512i byte = _mm512_add_epi32(_mm512_set1_epi32(i * 16), counted);
      const __m512i whole = _mm512_sub_epi32(byte, _mm512_set1_epi32(s.residual_zero));
      bytes_[i] = _mm512_cvtepi32_ps(byte);
      residual_[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(whole), _mm512_set1_ps(s.residual_scale));
    }
    for (float term = s.lo; term <= s.hi; ++term) terms_[count_++] = term;
  }

  // The term of a pair that differs is the first to be looked at the next time: few forms pass it.
  bool agree(const QSum& s) {
    __m512 quick[kVectors];
    for (int i = 0; i < kVectors; ++i) {
      quick[i] = _mm512_fmadd_ps(bytes_[i], _mm512_set1_ps(s.of_residual), _mm512_set1_ps(s.offset));
    }
    const __m512 least = _mm512_set1_ps(s.least), most = _mm512_set1_ps(s.most), of_term = _mm512_set1_ps(s.of_term);
    const __m512i lo = _mm512_cvtps_epi32(least), hi = _mm512_cvtps_epi32(most);
    for (int t = 0; t < count_; ++t) {
      const __m512 term = _mm512_set1_ps(terms_[t]), scaled = _mm512_mul_ps(term, _mm512_set1_ps(s.scale));
      __mmask16 differ = 0;
      for (int i = 0; i < kVectors; ++i) {
        const __m512 exact = _mm512_div_ps(_mm512_add_ps(scaled, residual_[i]), _mm512_set1_ps(s.y_scale));
        const __m512i want = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(exact, least), most));
        const __m512i got = _mm512_cvtps_epi32(_mm512_fmadd_ps(term, of_term, quick[i]));
        differ |= _mm512_cmpneq_epi32_mask(want, _mm512_min_epi32(_mm512_max_epi32(got, lo), hi));
      }
      if (differ == 0) continue;
      const float first = terms_[t];
      std::memmove(terms_ + 1, terms_, static_cast<size_t>(t) * sizeof(float));
      terms_[0] = first;
      return false;
    }
    return true;
  }

 private:
  static constexpr int kVectors = 16;
  __m512 bytes_[kVectors], residual_[kVectors];
  float terms_[256];
  int count_ = 0;
};

// The float `steps` away from zero, or towards it.
MRT_INLINE float beside(float x, int32_t steps) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  bits += steps;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// A sum that is half of a step to within a rounding goes up or down by how it was rounded on the way. Of 65,536 pairs
// few are so close, and factors beside the nearest often round them alike: of scales that calibration gives four in
// five at once, and 99 % in the end.
void quicken(QSum* sum) {
  constexpr int kAside = 8, kOffsetAside = 3;
  // 0, 1, -1, 2, -2, ...
  const auto step = [](int i) { return i % 2 != 0 ? (i + 1) / 2 : -i / 2; };
  QSum s = *sum;
  Pairs pairs(s);
  for (int t = 0; t <= 2 * kAside; ++t) {
    s.of_term = beside(sum->scale / sum->y_scale, step(t));
    for (int r = 0; r <= 2 * kAside; ++r) {
      s.of_residual = beside(sum->residual_scale / sum->y_scale, step(r));
      for (int o = 0; o <= 2 * kOffsetAside; ++o) {
        s.offset = -static_cast<float>(s.residual_zero) * s.of_residual;
        if (s.residual_zero != 0) s.offset = beside(s.offset, step(o));
        s.quick = pairs.agree(s);
        if (s.quick) {
          *sum = s;
          return;
        }
        if (s.residual_zero == 0) break;
      }
    }
  }
}

}  // namespace
}  // namespace mrt
