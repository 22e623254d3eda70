// The loops around quads; see quads.h.
#include "kernels/qdepthwise/quads.h"

#include <algorithm>
#include <cstring>

#include "kernels/checks.h"
#include "kernels/depthwise/lines.h"
#include "kernels/gemm/pack.h"
#include "kernels/qgemm/blocked.h"

namespace mrt {
namespace {

constexpr int64_t kNearBytes = 64 << 10;  // of quads, of the channels that are done at a time
constexpr size_t kHeader = 64;
constexpr int64_t kNone = -1;

int64_t terms_w(const ConvGeometry& g) { return ceil_div(g.kernel_w, 4); }

// What a thread keeps: which channels it has begun, lines as quads and which these are, a line of zero points, then of
// each 16 channels the weights, their offsets and the finish; sums of a row; and where the terms of a row begin, and
// its lines of the first channels.
struct Layout {
  int64_t slots, positions, blocks, terms;
  size_t lines, nothing, tags, weights, offsets, folded, sums, starts;
  size_t all() const { return kHeader + lines + nothing + tags + weights + offsets + folded + sums + starts; }
};

Layout layout_of(const ConvGeometry& g, int64_t h, int64_t out_width) {
  Layout l{};
  l.slots = std::max<int64_t>(1, std::min(h, (g.kernel_h - 1) * g.dilation_h + 1));
  l.positions = out_width + (terms_w(g) - 1) * (4 / g.stride_w);
  l.terms = g.kernel_h * terms_w(g);
  const int64_t block = l.slots * l.positions * kQuadBytes;
  l.blocks = std::max<int64_t>(1, std::min(ceil_div(g.in_channels, kQPanel), kNearBytes / block));
  l.lines = static_cast<size_t>(l.blocks * block);
  l.nothing = static_cast<size_t>(l.positions * kQuadBytes);
  l.tags = align64(static_cast<size_t>(l.slots) * sizeof(int64_t));
  l.weights = static_cast<size_t>(l.blocks * l.terms * kQuadBytes);
  l.offsets = static_cast<size_t>(l.blocks * kQPanel) * sizeof(int32_t);
  l.folded = align64(static_cast<size_t>(l.blocks) * sizeof(QFolded));
  l.sums = static_cast<size_t>(out_width * kQPanel) * sizeof(int32_t);
  l.starts = align64(static_cast<size_t>(l.terms + g.kernel_h) * sizeof(uint8_t*));
  return l;
}

// One thread's rows.
class Rows {
 public:
  Rows(const QuadImage& m, char* scratch)
      : m_(m), g_(*m.g), l_(layout_of(*m.g, m.h, m.out_width)), terms_w_(terms_w(*m.g)) {
    const auto take = [&scratch](size_t bytes) {
      char* const at = scratch;
      scratch += bytes;
      return at;
    };
    begun_ = reinterpret_cast<int64_t*>(take(kHeader));
    lines_ = reinterpret_cast<uint8_t*>(take(l_.lines));
    nothing_ = reinterpret_cast<uint8_t*>(take(l_.nothing));
    tags_ = reinterpret_cast<int64_t*>(take(l_.tags));
    weights_ = reinterpret_cast<int8_t*>(take(l_.weights));
    offsets_ = reinterpret_cast<int32_t*>(take(l_.offsets));
    folded_ = reinterpret_cast<QFolded*>(take(l_.folded));
    sums_ = reinterpret_cast<int32_t*>(take(l_.sums));
    starts_ = reinterpret_cast<const uint8_t**>(take(l_.starts));
    row_lines_ = starts_ + l_.terms;
  }

  void run(const DepthwisePiece& piece) {
    const int64_t c0 = piece.c0;
    last_ = piece.c1;
    if (*begun_ == kNone) std::memset(nothing_, m_.zero, l_.nothing);
    if (*begun_ != c0) begin_channels(*begun_ = c0);
    for (int64_t r = piece.begin; r < piece.end; ++r) {
      for (int64_t kh = 0; kh < g_.kernel_h; ++kh) row_lines_[kh] = filled_line(r, kh, c0);
      for (int64_t c = c0; c < last_; c += kQPanel) one_row(r, c0, c);
    }
  }

 private:
  // The finish of 16 channels from c on, of the first row.
  QFinishCall finish_of(int64_t c0, int64_t c) const {
    QFinishCall f = m_.finish;
    f.acc = sums_;
    f.ld = kQPanel;
    f.rows = m_.out_width;
    f.n = std::min(kQPanel, g_.in_channels - c);
    f.offset = offsets_ + (c - c0);
    f.scale += c;
    if (f.bias) f.bias += c;
    return f;
  }

  void begin_channels(int64_t c0) {
    std::fill(tags_, tags_ + l_.slots, int64_t{-1});
    const int64_t w_block = g_.taps() * kChannelBlock;
    for (int64_t c = c0; c < last_; c += kQPanel) {
      const float* const w = m_.w + c / kChannelBlock * w_block;
      const float* const next = c + kChannelBlock < g_.in_channels ? w + w_block : nullptr;
      const int64_t block = (c - c0) / kQPanel;
      m_.table->weights(w, next, g_.kernel_h, g_.kernel_w, m_.zero, weights_ + block * l_.terms * kQuadBytes,
                        offsets_ + (c - c0));
      if (m_.finish.folds()) folded_[block] = q_fold(finish_of(c0, c));
    }
  }

  uint8_t* slot(int64_t line, int64_t block) const {
    return lines_ + (line % l_.slots * l_.blocks + block) * l_.positions * kQuadBytes;
  }

  // The line that row r sees at line kh of the filter, -1 outside of the image.
  int64_t line_of(int64_t r, int64_t kh) const {
    const int64_t ih = r % m_.out_h * g_.stride_h - g_.pad_top + kh * g_.dilation_h;
    return ih >= 0 && ih < m_.h ? ih : -1;
  }

  // The line that row r sees at line kh of the filter, of the first channels; null outside of the image.
  const uint8_t* filled_line(int64_t r, int64_t kh, int64_t c0) {
    const int64_t ih = line_of(r, kh), line = r / m_.out_h * m_.h + ih;
    if (ih < 0) return nullptr;
    if (tags_[ih % l_.slots] == line) return slot(ih, 0);
    tags_[ih % l_.slots] = line;
    QuadLine q{};
    q.pixels = m_.width;
    q.stride = g_.in_channels;
    q.first = -g_.pad_left;
    q.positions = l_.positions;
    q.zero = m_.zero;
    for (int64_t c = c0; c < last_; c += kQPanel) {
      q.x = m_.x + line * m_.width * g_.in_channels + c;
      q.channels = std::min(kQPanel, g_.in_channels - c);
      q.out = slot(ih, (c - c0) / kQPanel);
      m_.table->line[g_.stride_w - 1](q);
    }
    return slot(ih, 0);
  }

  void one_row(int64_t r, int64_t c0, int64_t c) {
    const int64_t block = (c - c0) / kQPanel, step = 4 / g_.stride_w * kQuadBytes;
    for (int64_t kh = 0; kh < g_.kernel_h; ++kh) {
      const uint8_t* const line = row_lines_[kh] ? row_lines_[kh] + block * l_.positions * kQuadBytes : nothing_;
      for (int64_t j = 0; j < terms_w_; ++j) starts_[kh * terms_w_ + j] = line + j * step;
    }
    const int64_t at = r * m_.out_width * g_.in_channels + c;
    const bool folds = m_.finish.folds(), whole = folds && g_.in_channels - c >= kQPanel;
    QuadRow q{};
    q.x = starts_;
    q.w = weights_ + block * l_.terms * kQuadBytes;
    q.terms = l_.terms;
    q.pixels = m_.out_width;
    q.acc = sums_;
    q.folded = whole ? folded_ + block : nullptr;
    q.y = static_cast<uint8_t*>(m_.finish.y) + at;  // of bytes
    q.ldy = m_.finish.ldy;
    m_.table->row(q);
    if (whole) return;
    QFinishCall f = finish_of(c0, c);
    f.y = static_cast<char*>(f.y) + at * (f.quantized ? 1 : 4);
    if (f.residual) f.residual += at;
    if (folds) f.folded = folded_ + block;
    m_.tiles->finish(f);
  }

  const QuadImage& m_;
  const ConvGeometry& g_;
  const Layout l_;
  const int64_t terms_w_;
  int64_t* begun_;  // the first of the channels that weights_ and lines_ are of
  uint8_t *lines_, *nothing_;
  int64_t* tags_;
  int8_t* weights_;
  int32_t* offsets_;
  QFolded* folded_;
  int32_t* sums_;
  const uint8_t **starts_, **row_lines_;
  int64_t last_ = 0;  // of the channels that are done
};

}  // namespace

const QuadTable* quad_table(Isa isa, const ConvGeometry& g) {
  return g.dilation_w == 1 && g.stride_w <= 2 ? kQuad[isa] : nullptr;
}

size_t quad_scratch(const ConvGeometry& g, int64_t h, int64_t out_width) { return layout_of(g, h, out_width).all(); }

int64_t quad_channels(const ConvGeometry& g, int64_t h, int64_t out_width) {
  return layout_of(g, h, out_width).blocks * kQPanel;
}

void quad_begin(char* scratch) { *reinterpret_cast<int64_t*>(scratch) = kNone; }

void quad_rows(const QuadImage& m, const DepthwisePiece& piece, char* scratch) { Rows(m, scratch).run(piece); }

}  // namespace mrt
