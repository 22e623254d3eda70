// A depthwise convolution cut into pieces of rows and channels for the threads of a run.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/checks.h"
#include "kernels/qgemm/tile.h"

namespace mrt {

// Rows [begin, end) of the output, of all images, and channels [c0, c1).
struct DepthwisePiece {
  int64_t begin, end, c0, c1;
};

// Each thread begins with a stretch of pieces, in which the next one has the same channels and the rows behind. Many
// pixels are cut by rows; where there are more channels than pixels by those, as products are cut by columns
// (kernels/gemm/pieces.h): no two threads then make the same lines and weights ready.
class DepthwisePieces {
 public:
  // `near`: the most channels of a piece; `wanted`: so many pieces at least, where there are enough rows and channels.
  DepthwisePieces(int64_t rows, int64_t width, int64_t channels, int64_t near, int64_t threads, int64_t wanted)
      : rows_(rows), channels_(channels) {
    groups_ = ceil_div(channels, std::max(kQPanel, near / kQPanel * kQPanel));
    if (threads > 1 && channels > rows * width) {
      if (channels >= 2 * threads * kLine) unit_ = kLine;
      groups_ = std::max(groups_, std::min(ceil_div(channels, unit_), wanted));
    } else {
      bands_ = std::min(threads, rows);
    }
    each_ = std::max<int64_t>(1, std::min(rows / bands_, ceil_div(wanted, bands_ * groups_)));
  }
  int64_t count() const { return bands_ * groups_ * each_; }
  DepthwisePiece operator[](int64_t i) const {
    const int64_t part = i % each_, group = i / each_ % groups_, band = i / each_ / groups_;
    const int64_t parts = bands_ * each_, row = band * each_ + part;
    return {rows_ * row / parts, rows_ * (row + 1) / parts, channel(group), channel(group + 1)};
  }

 private:
  static constexpr int64_t kLine = 64;  // of a cache, which is better one thread's
  int64_t channel(int64_t group) const {
    return std::min(channels_, ceil_div(channels_, unit_) * group / groups_ * unit_);
  }

  int64_t rows_, channels_, groups_, unit_ = kQPanel, bands_ = 1, each_;
};

}  // namespace mrt
