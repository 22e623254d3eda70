// Which entries of a row may be multiplied together; see qmultiply.h.
#include "kernels/sparse/qpack.h"

#include "kernels/sparse/qmultiply.h"

namespace mrt {
namespace {

constexpr int kSums = 8;  // of an entry: two pairs of k's of four columns

// The least and the most that the sums of two products of an entry can be, in units of a_max.
struct Reach {
  int32_t lo[kSums], hi[kSums];
  explicit Reach(const int8_t* w) {
    for (int i = 0; i < kSums; ++i) {
      const int32_t a = w[2 * i], b = w[2 * i + 1];
      lo[i] = std::min(a, 0) + std::min(b, 0);
      hi[i] = std::max(a, 0) + std::max(b, 0);
    }
  }
  int32_t largest() const {
    int32_t most = 0;
    for (int i = 0; i < kSums; ++i) most = std::max({most, hi[i], -lo[i]});
    return most;
  }
};

bool fits(const Reach& a, const Reach* b, int64_t a_max) {
  for (int i = 0; i < kSums; ++i) {
    const int64_t lo = a.lo[i] + (b ? b->lo[i] : 0), hi = a.hi[i] + (b ? b->hi[i] : 0);
    if (lo * a_max < INT16_MIN || hi * a_max > INT16_MAX) return false;
  }
  return true;
}

}  // namespace

// The largest entry is given the smallest, as long as there are two; one that does not fit to the smallest stays alone.
void SparsePairs::operator()(SparseRow<int8_t>* row) const {
  const int64_t n = row->entries;
  uint8_t by_size[256], doubled[256], single[256], wide[256];
  int32_t size[256];
  int64_t safe = 0, doubles = 0, singles = 0, wides = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Reach reach(row->weights[i]);
    size[i] = reach.largest();
    (fits(reach, nullptr, a_max) ? by_size[safe++] : wide[wides++]) = static_cast<uint8_t>(i);
  }
  sort_few(by_size, safe, [&](uint8_t a, uint8_t b) { return size[a] < size[b]; });
  int64_t smallest = 0;
  for (int64_t largest = safe - 1; largest >= smallest; --largest) {
    const uint8_t a = by_size[largest], b = by_size[smallest];
    const Reach other(row->weights[b]);
    if (largest > smallest && fits(Reach(row->weights[a]), &other, a_max)) {
      doubled[doubles++] = a, doubled[doubles++] = b;
      ++smallest;
    } else {
      single[singles++] = a;
    }
  }
  row->counts[kSparseDoubled] = static_cast<uint16_t>(doubles);
  row->counts[kSparseSingle] = static_cast<uint16_t>(singles);
  row->counts[kSparseWide] = static_cast<uint16_t>(wides);
  const SparseRow<int8_t> old = *row;
  int64_t to = 0;
  const auto put = [&](const uint8_t* from, int64_t count) {
    for (int64_t i = 0; i < count; ++i, ++to) {
      row->place[to] = old.place[from[i]];
      std::memcpy(row->weights[to], old.weights[from[i]], sizeof(old.weights[0]));
    }
  };
  put(doubled, doubles);
  put(single, singles);
  put(wide, wides);
}

}  // namespace mrt
