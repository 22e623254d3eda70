// Makes the packing of packing.h from dense weights.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/sparse/packing.h"

namespace mrt {

// Dense weights, of which w[k][j] stands at data[k * stride_k + j * stride_n]; or, with `taps`, a filter
// [j][channel][tap], whose k's are the channels of one tap behind those of another.
template <typename T>
struct SparseSource {
  const T* data;
  int64_t stride_k, stride_n;
  int64_t taps = 0, channels = 0;

  const T* row(int64_t k) const { return data + (taps == 0 ? k * stride_k : k % channels * taps + k / channels); }
};

// Sorts at most 256 numbers, those that are alike stay in their order.
template <typename Less>
void sort_few(uint8_t* begin, int64_t n, Less less) {
  for (int64_t i = 1; i < n; ++i) {
    const uint8_t moved = begin[i];
    int64_t to = i;
    for (; to > 0 && less(moved, begin[to - 1]); --to) begin[to] = begin[to - 1];
    begin[to] = moved;
  }
}

// The entries of one row in one block, in the order in which they are stored.
template <typename T>
struct SparseRow {
  uint16_t entries, counts[3];  // of all kinds, of each
  uint8_t place[256];
  T weights[256][16];
};

// What the row has in the block; `arrange` may change their order and says how many there are of each kind.
template <typename T, typename Arrange>
void read_row(const SparseLayout& l, const SparseSource<T>& w, int64_t block, int64_t column, Arrange& arrange,
              SparseRow<T>* row) {
  row->entries = 0;
  for (int64_t place = 0; place < l.places_of(block); ++place) {
    T* const to = row->weights[row->entries];
    bool any = false;
    for (int64_t j = 0; j < l.width; ++j) {
      for (int64_t d = 0; d < l.deep; ++d) {
        const int64_t k = block * l.depth() + place * l.deep + d, n = column + j;
        to[j * l.deep + d] = k < l.k && n < l.n ? w.row(k)[n * w.stride_n] : T{0};
        any = any || to[j * l.deep + d] != T{0};
      }
    }
    if (any) row->place[row->entries++] = static_cast<uint8_t>(place);
  }
  arrange(row);
}

// A part, of which `out` (or null) is the begin: how many bytes it takes.
template <typename T, typename Arrange>
int64_t pack_part(const SparseLayout& l, const SparseSource<T>& w, int64_t block, int64_t chunk, Arrange& arrange,
                  uint8_t* out) {
  const int64_t rows = l.rows_of(chunk);
  SparseRow<T> row;
  uint64_t counts[kSparseColumns];  // of each row, those of the first kind above those of the next
  uint8_t order[kSparseColumns];
  int64_t total = 0;
  for (int64_t r = 0; r < rows; ++r) {
    read_row(l, w, block, chunk * kSparseColumns + r * l.width, arrange, &row);
    order[r] = static_cast<uint8_t>(r);
    counts[r] = 0;
    for (int64_t kind = 0; kind < l.kinds; ++kind) counts[r] = counts[r] << 16 | row.counts[kind];
    total += row.entries;
  }
  const SparseWithin at(l, rows, total);
  if (out == nullptr) return at.end;
  sort_few(order, rows, [&](uint8_t a, uint8_t b) { return counts[a] < counts[b]; });
  std::fill(out, out + at.end, uint8_t{0});
  std::copy(order, order + rows, out + at.order);
  uint8_t *index = out + at.index, *weights = out + at.weights;
  for (int64_t i = 0; i < rows; ++i) {
    read_row(l, w, block, chunk * kSparseColumns + order[i] * l.width, arrange, &row);
    for (int64_t kind = 0; kind < l.kinds; ++kind)
      std::memcpy(out + 2 * (kind * rows + i), &row.counts[kind], sizeof(uint16_t));
    index = std::copy(row.place, row.place + row.entries, index);
    for (int64_t e = 0; e < row.entries; ++e, weights += l.entry_bytes())
      std::memcpy(weights, row.weights[e], static_cast<size_t>(l.entry_bytes()));
  }
  return at.end;
}

// All of it; bytes, -1 where that is more than can be addressed.
template <typename T, typename Arrange>
int64_t pack_sparse(const SparseLayout& l, const SparseSource<T>& w, Arrange arrange, void* out) {
  int64_t end = l.table_bytes();
  if (end < 0) return -1;
  int64_t* offset = static_cast<int64_t*>(out);
  if (offset != nullptr) *offset = end;
  for (int64_t block = 0; l.n > 0 && block < l.blocks(); ++block) {
    for (int64_t chunk = 0; chunk < l.chunks(); ++chunk) {
      end += pack_part(l, w, block, chunk, arrange, out ? static_cast<uint8_t*>(out) + end : nullptr);
      if (offset != nullptr) *++offset = end;
    }
  }
  return end;
}

}  // namespace mrt
