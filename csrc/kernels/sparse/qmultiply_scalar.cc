#include "kernels/sparse/qmultiply_generic.h"

namespace mrt {
namespace {

constexpr int kColumns = 8;

struct Sums {
  static constexpr int width = kColumns;
  int32_t v[kColumns];
  static MRT_INLINE Sums start(const int32_t* p) {
    Sums s;
    for (int32_t& v : s.v) v = *p;
    return s;
  }
  static MRT_INLINE Sums load(const int32_t* p) {
    Sums s;
    std::memcpy(s.v, p, sizeof(s.v));
    return s;
  }
  MRT_INLINE void store(int32_t* p) const { std::memcpy(p, v, sizeof(v)); }
};

void multiply(const QSparseCall& c) {
  const uint8_t* const x = c.x;
  each_row<Sums, 1>(c, [x](Sums(&acc)[4][1], RowCounts n, const uint8_t* index, const int8_t* w) {
    for (int64_t left = n.doubled + n.single + n.wide; left > 0; --left, ++index, w += 16) {
      const uint8_t* const from = x + static_cast<size_t>(*index) * (kColumns * 4);
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < kColumns; ++j) {
          int32_t sum = 0;
          for (int k = 0; k < 4; ++k) sum += from[4 * j + k] * w[4 * i + k];
          acc[i][0].v[j] = static_cast<int32_t>(static_cast<uint32_t>(acc[i][0].v[j]) + static_cast<uint32_t>(sum));
        }
      }
    }
  });
}

}  // namespace

extern const QSparseTable kQSparse_scalar = {kColumns, 1, {nullptr, multiply, nullptr}};
}  // namespace mrt
