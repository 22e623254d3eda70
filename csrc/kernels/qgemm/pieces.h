// A product of 8-bit integers cut into pieces for the threads of a run.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/checks.h"

namespace mrt {

// Every thread has one share, of some rows and some columns, in a few pieces, of which others take what is left.
//
// Who has a share reads the weights of its columns, and puts them in order: that takes as long as so many rows more. So
// shares are better of columns than of rows where rows are few; but columns come in panels that are done four side by
// side, so that their shares may be less even, and each row of y is then written by several threads. The cheapest way
// is taken, and of those that are about as good the one with more shares of rows.
class QPieces {
 public:
  // m rows in tiles of `tile_rows`, `panels` of all groups, `together` side by side; `more_rows` as above.
  QPieces(int64_t m, int64_t tile_rows, int64_t panels, int64_t together, int64_t more_rows, int64_t threads)
      : m_(m), tile_rows_(tile_rows), panels_(panels), together_(together) {
    int64_t best = 0;
    for (int64_t down = threads; down >= 1; --down) {
      const int64_t across = threads / down, unit = unit_of(across);
      if (best != 0 && panels < across * kLinePanels && tiles() >= threads) continue;
      const int64_t rows = std::min(m, largest(tiles(), 1, down) * tile_rows);
      const int64_t cost = (rows + more_rows) * largest(panels, unit, across);
      if (best != 0 && kEven * best <= (kEven + 1) * cost) continue;
      best = cost;
      down_ = down;
      across_ = across;
      unit_ = unit;
      by_rows_ = rows >= 2 * kFew * more_rows;
      each_ = by_rows_ ? rows / (kFew * more_rows) : ceil_div(largest(panels, unit, across), together);
    }
    each_ = std::min(kPieces, each_);
  }

  struct Piece {
    int64_t m0, m1, p0, p1;
  };
  int64_t count() const { return down_ * across_ * each_; }
  Piece operator[](int64_t item) const {
    const int64_t share = item / each_, part = item % each_, i = share / across_, j = share % across_;
    const int64_t t0 = begin(tiles(), 1, i, down_), t1 = begin(tiles(), 1, i + 1, down_);
    const int64_t p0 = begin(panels_, unit_, j, across_), p1 = begin(panels_, unit_, j + 1, across_);
    if (by_rows_) {
      const auto row = [&](int64_t n) { return std::min(m_, (t0 + begin(t1 - t0, 1, n, each_)) * tile_rows_); };
      return {row(part), row(part + 1), p0, p1};
    }
    const auto panel = [&](int64_t n) { return p0 + begin(p1 - p0, together_, n, each_); };
    return {std::min(m_, t0 * tile_rows_), std::min(m_, t1 * tile_rows_), panel(part), panel(part + 1)};
  }

 private:
  static constexpr int64_t kEven = 16;       // a sixteenth less is not worth another way
  static constexpr int64_t kFew = 20;        // times more_rows: the rows of a piece
  static constexpr int64_t kPieces = 4;      // of a share, at most
  static constexpr int64_t kLinePanels = 4;  // of bytes, in a line of cache: fewer would be written by several threads

  int64_t tiles() const { return ceil_div(m_, tile_rows_); }
  // The first of n that the i-th of `parts` has, whole units each; and how many one has at most.
  static int64_t begin(int64_t n, int64_t unit, int64_t i, int64_t parts) {
    return std::min(n, ceil_div(n, unit) * i / parts * unit);
  }
  static int64_t largest(int64_t n, int64_t unit, int64_t parts) {
    return std::min(n, ceil_div(ceil_div(n, unit), parts) * unit);
  }
  // The panels that are not parted between shares: two, where shares are more even for it.
  int64_t unit_of(int64_t across) const {
    const int64_t two = std::min<int64_t>(2, together_);
    return kEven * largest(panels_, together_, across) > (kEven + 1) * largest(panels_, two, across) ? two : together_;
  }

  int64_t m_, tile_rows_, panels_, together_, down_ = 1, across_ = 1, unit_ = 1, each_ = 1;
  bool by_rows_ = false;
};

}  // namespace mrt
