// A matrix product cut into pieces for the threads of a run, and a block of its rows into tiles.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/checks.h"

namespace mrt {

// A block of rows in tiles of nearly equal height: 49 rows are 4 tiles of 6 and 5 of 5, not 8 of 6 and a slow one of 1.
struct Tiles {
  int64_t count, height, taller;  // `taller` tiles have height + 1 rows
  Tiles(int64_t rows, int64_t mr) : count(ceil_div(rows, mr)), height(rows / count), taller(rows % count) {}
  int64_t rows(int64_t i) const { return height + (i < taller); }
  int64_t total() const { return count * height + taller; }

  struct Run {
    int64_t tiles, rows;  // of each
  };
  std::array<Run, 2> runs() const { return {Run{taller, height + 1}, Run{count - taller, height}}; }
};

// The pointers to the rows of A from m on, tile by tile, of a Product or a QProduct (see Product::rows_of).
template <typename P, typename T>
void fill_pointers(const P& p, const Tiles& tiles, int64_t m, const T** out) {
  for (int64_t t = 0; t < tiles.count; ++t) {
    const int64_t rows = tiles.rows(t);
    if (p.rows_of) {
      p.rows_of(p.user, m, rows, out);
    } else {
      for (int64_t i = 0; i < rows; ++i) out[i] = p.a + (m + i) * p.lda;
    }
    out += rows * p.taps;
    m += rows;
  }
}

// A few for every thread, which begins with one stretch of them. A product with more columns than rows is cut by
// columns, and by rows only where there are too few: each weight is read once, by one thread. Others are cut by rows,
// and then by columns: a thread has the rows that it also wrote in the step before.
class Pieces {
 public:
  // m rows in tiles of `tile_rows`, in at least `blocks` blocks; n columns (of all groups) in `panels` panels.
  Pieces(int64_t m, int64_t tile_rows, int64_t blocks, int64_t n, int64_t panels, int64_t threads)
      : m_(m), tile_rows_(tile_rows), tiles_(ceil_div(m, tile_rows)), panels_(panels), by_columns_(n > m) {
    const int64_t wanted = 4 * threads;
    if (by_columns_) {
      columns_ = std::min(panels, wanted);
      rows_ = std::min(ceil_div(m, 4 * tile_rows), ceil_div(wanted, columns_));
      return;
    }
    rows_ = std::min(ceil_div(m, 4 * tile_rows), std::max(wanted, blocks));
    columns_ = ceil_div(wanted, rows_);
    if (columns_ > 1) columns_ = ceil_div(columns_, threads) * threads;
    columns_ = std::min(panels, columns_);
  }

  struct Piece {
    int64_t m0, m1, p0, p1;
  };
  int64_t count() const { return rows_ * columns_; }
  Piece operator[](int64_t item) const {
    const int64_t i = by_columns_ ? item % rows_ : item / columns_, j = by_columns_ ? item / rows_ : item % columns_;
    return {row(i), row(i + 1), panels_ * j / columns_, panels_ * (j + 1) / columns_};
  }

 private:
  int64_t row(int64_t i) const { return std::min(m_, tiles_ * i / rows_ * tile_rows_); }

  int64_t m_, tile_rows_, tiles_, panels_, rows_, columns_;
  bool by_columns_;
};

}  // namespace mrt
