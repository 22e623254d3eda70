// The loops around quads; see quads.h.
#include "kernels/qdepthwise/quads.h"

#include <cstring>

#include "kernels/checks.h"
#include "kernels/depthwise/lines.h"
#include "kernels/gemm/pack.h"
#include "kernels/qgemm/blocked.h"

namespace mrt {
namespace {

constexpr int64_t kUnit = kQuadPanels * kQPanel;
constexpr int64_t kNearQuads = 384;        // of all streams of a block: 24 KiB
constexpr int64_t kNearLines = 128 << 10;  // bytes that a band's units read one after the other
constexpr int64_t kFewPixels = 64;         // for which a unit's weights are made ready at least

QuadShape shape_of(const ConvGeometry& g) {
  QuadShape s{g.kernel_h, g.kernel_w, g.kernel_h / 4};
  // Making a quad costs about what two terms do.
  const int64_t left = g.kernel_h % 4;
  if (left > 1 && g.kernel_w + 2 <= left * (s.flat_terms() + 2)) ++s.tall;
  return s;
}

// What is done at a time with units of so many panels: some rows, or where these are long a part of one, of which all
// are about as wide.
struct Block {
  int64_t pixels, rows, positions, streams;

  Block() = default;
  Block(const ConvGeometry& g, int64_t panels, int64_t out_width) : streams(shape_of(g).streams()) {
    const int64_t near = kNearQuads / (panels * streams);  // positions
    const int64_t most = std::max<int64_t>(8, (near - g.kernel_w) / g.stride_w + 1);
    pixels = std::min(out_width, ceil_div(ceil_div(out_width, ceil_div(out_width, most)), 4) * 4);
    positions = (pixels - 1) * g.stride_w + g.kernel_w;
    rows = pixels < out_width ? 1 : std::max<int64_t>(1, near / positions);
  }
};

// What a thread keeps, of a unit: quads of a block, a pixel of zero points, weights and their offsets, the finish,
// sums, and where the terms' quads are.
struct Layout {
  QuadShape shape;
  Block blocks[kQuadUnits];
  size_t quads = 0, nothing = kUnit, weights, offsets = kUnit * sizeof(int32_t), finish = sizeof(QuadFinish), sums,
         terms;

  Layout(const ConvGeometry& g, int64_t out_width) : shape(shape_of(g)) {
    for (int64_t unit = 0, panels = 1; unit < kQuadUnits; ++unit, panels *= 2) {
      const Block b(g, panels, out_width);
      blocks[unit] = b;
      quads = std::max(quads, static_cast<size_t>(b.rows * b.streams * b.positions * panels * kQuadBytes));
    }
    weights = static_cast<size_t>(shape.terms() * kQuadPanels * kQuadBytes);
    sums = static_cast<size_t>(blocks[0].rows * blocks[0].pixels * kQPanel) * sizeof(int32_t);
    terms = align64(static_cast<size_t>(shape.terms()) * sizeof(uint8_t*));
  }
  size_t all() const { return quads + nothing + weights + offsets + finish + sums + terms; }
};

// One thread's piece.
class Rows {
 public:
  Rows(const QuadImage& m, char* scratch) : m_(m), g_(*m.g), layout_(g_, m.out_width), shape_(layout_.shape) {
    const Layout& l = layout_;
    const auto take = [&scratch](size_t bytes) {
      char* const at = scratch;
      scratch += bytes;
      return at;
    };
    quads_ = reinterpret_cast<uint8_t*>(take(l.quads));
    nothing_ = reinterpret_cast<uint8_t*>(take(l.nothing));
    weights_ = reinterpret_cast<int8_t*>(take(l.weights));
    offsets_ = reinterpret_cast<int32_t*>(take(l.offsets));
    finish_ = reinterpret_cast<QuadFinish*>(take(l.finish));
    sums_ = reinterpret_cast<int32_t*>(take(l.sums));
    terms_ = reinterpret_cast<const uint8_t**>(take(l.terms));
    std::memset(nothing_, m.zero, l.nothing);
    *finish_ = {};
  }

  // Rows [begin, end) of channels [c, last).
  void run(int64_t begin, int64_t end, int64_t c, int64_t last) {
    for (; c < last; c += channels_) {
      begin_unit(c, last - c);
      for (int64_t r = begin; r < end; r += block_.rows) {
        for (int64_t p = 0; p < m_.out_width; p += block_.pixels) {
          one_block(r, std::min(block_.rows, end - r), p, std::min(block_.pixels, m_.out_width - p));
        }
      }
    }
  }

 private:
  // The finish of 16 channels from `panel` on, of the first row: none where the last unit has fewer panels.
  QFinishCall finish_of(int64_t panel) const {
    QFinishCall f = m_.finish;
    f.acc = sums_;
    f.ld = kQPanel;
    f.n = std::clamp<int64_t>(channels_ - panel * kQPanel, 0, kQPanel);
    f.offset = offsets_ + panel * kQPanel;
    f.scale += c_ + panel * kQPanel;
    if (f.bias) f.bias += c_ + panel * kQPanel;
    return f;
  }

  // What is not made bytes in registers is finished 16 channels at a time.
  void begin_unit(int64_t c, int64_t left) {
    bytes_ = m_.finish.folds();
    make_weights(c, left, !bytes_ || left <= kQPanel ? 0 : left <= 2 * kQPanel ? 1 : 2);
    if (!bytes_) return;
    QFolded folded[kQuadPanels];
    for (int64_t p = 0; p < panels_; ++p) {
      folded[p] = q_fold(finish_of(p));
      bytes_ = bytes_ && folded[p].fits;
    }
    if (!bytes_) return make_weights(c, left, 0);
    m_.table->finish(folded, panels_, finish_);
    if (unit_ == 0) return;
    const auto arrange = m_.table->arrange[unit_];
    arrange(weights_, shape_.terms());
    arrange(finish_->start, 1);
    arrange(finish_->scale, 1);
    arrange(finish_->bias, 1);
  }

  void make_weights(int64_t c, int64_t left, int unit) {
    c_ = c;
    unit_ = unit;
    panels_ = int64_t{1} << unit;
    channels_ = std::min(left, panels_ * kQPanel);
    block_ = layout_.blocks[unit];
    QuadWeights w{};
    w.shape = shape_;
    w.panels = panels_;
    w.block = g_.taps() * kChannelBlock;
    w.w = m_.w + c / kChannelBlock * w.block;
    w.blocks = ceil_div(channels_, kChannelBlock);
    w.zero = m_.zero;
    w.out = weights_;
    w.offset = offsets_;
    m_.table->weights(w);
    const uint8_t** term = terms_;
    shape_.each_term([&](int64_t s, int64_t position, int64_t, int64_t, int64_t) { *term++ = quads_of(s, position); });
  }

  // Where quads of a row are: with a stride of 2 even positions first, so that each term's are next to each other.
  uint8_t* quads_of(int64_t stream, int64_t position) const {
    const int64_t even = g_.stride_w == 1 ? 0 : ceil_div(block_.positions, 2);
    const int64_t at = even == 0 ? position : position / 2 + position % 2 * even;
    return quads_ + (stream * block_.positions + at) * panels_ * kQuadBytes;
  }
  int64_t row_bytes() const { return block_.streams * block_.positions * panels_ * kQuadBytes; }

  // Quads for row r at `to` bytes behind the first row's.
  void make_quads(int64_t r, int64_t to, QuadStream& q) {
    const int64_t image = r / m_.out_h, first = r % m_.out_h * g_.stride_h - g_.pad_top;
    const int64_t line_bytes = m_.width * g_.in_channels;
    const uint8_t* const x = m_.x + image * m_.h * line_bytes + c_;
    for (int64_t s = 0; s < block_.streams; ++s) {
      const bool tall = s < shape_.tall;
      q.shift = tall ? 0 : 1;
      for (int64_t j = 0; j < 4; ++j) {
        const int64_t kh = tall ? std::min(4 * s + j, g_.kernel_h - 1) : 3 * shape_.tall + s;
        const int64_t ih = first + kh * g_.dilation_h;
        q.line[j] = ih >= 0 && ih < m_.h ? x + ih * line_bytes : nullptr;
      }
      q.out = quads_of(s, 0) + to;
      m_.table->stream[unit_](q);
    }
  }

  // `n` pixels from p on of rows from r on.
  void one_block(int64_t r, int64_t rows, int64_t p, int64_t n) {
    QuadStream q{};
    q.pixels = m_.width;
    q.stride = g_.in_channels;
    q.channels = channels_;
    q.first = p * g_.stride_w - g_.pad_left;
    q.positions = (n - 1) * g_.stride_w + g_.kernel_w;
    q.nothing = nothing_;
    q.to_odd = quads_of(0, 1) - quads_of(0, 0);
    q.to_even = quads_of(0, 2) - quads_of(0, 1);
    for (int64_t i = 0; i < rows; ++i) make_quads(r + i, i * row_bytes(), q);
    const int64_t at = (r * m_.out_width + p) * g_.in_channels + c_;
    QuadRows b{};
    b.x = terms_;
    b.row_step = row_bytes();
    b.w = weights_;
    b.terms = shape_.terms();
    b.pixels = n;
    b.rows = rows;
    b.acc = bytes_ ? nullptr : sums_;
    b.finish = finish_;
    b.channels = channels_;
    b.y = static_cast<uint8_t*>(m_.finish.y) + at;  // of bytes
    b.ldy = m_.finish.ldy;
    m_.table->rows[unit_](b);
    if (bytes_) return;
    QFinishCall f = finish_of(0);
    f.rows = rows * n;
    f.y = static_cast<char*>(f.y) + at * (f.quantized ? 1 : 4);
    if (f.residual) f.residual += at;
    m_.tiles->finish(f);
  }

  const QuadImage& m_;
  const ConvGeometry& g_;
  const Layout layout_;
  const QuadShape& shape_;
  uint8_t *quads_, *nothing_;
  int8_t* weights_;
  int32_t* offsets_;
  QuadFinish* finish_;
  int32_t* sums_;
  const uint8_t** terms_;
  // Of the unit that is done.
  int64_t c_ = 0, channels_ = 0, panels_ = 0;
  int unit_ = 0;
  bool bytes_ = false;
  Block block_{};
};

}  // namespace

const QuadTable* quad_table(Isa isa, const ConvGeometry& g) {
  return g.dilation_w == 1 && g.stride_w <= 2 ? kQuad[isa] : nullptr;
}

size_t quad_scratch(const ConvGeometry& g, int64_t out_width) { return Layout(g, out_width).all(); }

// Bands of rows, so that what all of the channels' units read of them is near.
void quad_rows(const QuadImage& m, const DepthwisePiece& piece, char* scratch) {
  const int64_t line = m.g->stride_h * std::max<int64_t>(1, m.width) * m.g->in_channels;
  const int64_t near = std::max(ceil_div(kFewPixels, m.out_width), kNearLines / line);
  const int64_t rows = piece.end - piece.begin, bands = ceil_div(rows, near);
  Rows work(m, scratch);
  for (int64_t band = 0; band < bands; ++band) {
    const int64_t begin = piece.begin + rows * band / bands, end = piece.begin + rows * (band + 1) / bands;
    for (int64_t c = piece.c0; c < piece.c1; c += kUnit) work.run(begin, end, c, std::min(piece.c1, c + kUnit));
  }
}

}  // namespace mrt
