// Rows of depthwise convolution; see lines.h.
//
// A row of the output is cut into stretches of pixels that see the same columns of the filter: the inner one sees all,
// those at the edges fewer. Positions outside the image are left out, so nothing is padded.
#include "kernels/depthwise/lines.h"

#include <algorithm>
#include <cinttypes>

namespace mrt {

const Attribute kDepthwiseGroups[1] = {integer("groups", 1, kMaxConvExtent).with(kDerived)};  // the channels

Status decode_depthwise(const Attrs& attrs, int64_t max_repeats, ConvGeometry* g) {
  MRT_TRY(decode_conv(attrs, g));
  // groups may be left out: it can only be the number of channels.
  const int64_t* values = nullptr;
  size_t n = 0;
  if (!attrs.ints("groups", &values, &n)) g->groups = g->in_channels;
  const int64_t c = g->in_channels, out = g->out_channels;
  if (g->groups == c && c <= out && out <= max_repeats * c && (c == 0 || out % c == 0)) return Status();
  return fail(MRT_ERROR_INVALID_ARGUMENT,
              "%s: groups %" PRId64 " and output channels %" PRId64 " of %" PRId64 " input channels, expected %s",
              attrs.contract().name, g->groups, out, c,
              max_repeats == 1 ? "one number" : "as many groups and a multiple as output channels");
}

int64_t depthwise_blocks(int64_t channels) { return channels / kChannelBlock + (channels % kChannelBlock != 0); }

int64_t depthwise_packed_bytes(const ConvGeometry& g) {
  return checked_mul(checked_mul(depthwise_blocks(g.out_channels), g.taps()),
                     kChannelBlock * static_cast<int64_t>(sizeof(float)));
}

size_t depthwise_scratch(const ConvGeometry& g) {
  return align64(static_cast<size_t>(g.kernel_h) * sizeof(float*) +
                 static_cast<size_t>(g.taps()) * (sizeof(float*) + sizeof(int64_t)));
}
const float** depthwise_lines(char* scratch) { return reinterpret_cast<const float**>(scratch); }

namespace {
constexpr int64_t kNearBytes = 64 << 10;  // of lines and what goes with them, of the channels that are done at a time
constexpr int64_t kChunkStep = 16;        // a cache line, and a panel of the finish of 8 bits
}  // namespace

LineRing::LineRing(const ConvGeometry& g, int64_t h, int64_t w, int64_t more)
    : slots(std::max<int64_t>(1, std::min(h, (g.kernel_h - 1) * g.dilation_h + 1))), width(w) {
  const int64_t channel = std::max<int64_t>(1, slots * w + more) * static_cast<int64_t>(sizeof(float));
  const int64_t all_channels = (g.out_channels + kChunkStep - 1) / kChunkStep * kChunkStep;
  chunk = std::min(all_channels, std::max(kChunkStep, kNearBytes / channel / kChunkStep * kChunkStep));
}

namespace {

// The positions of the filter along one axis that lie inside [0, extent) when the first is at `start`.
struct Range {
  int64_t begin, end;
};
Range inside(int64_t start, int64_t extent, int64_t kernel, int64_t dilation) {
  const int64_t begin = start >= 0 ? 0 : (-start + dilation - 1) / dilation;
  const int64_t end = start >= extent ? 0 : (extent - start + dilation - 1) / dilation;
  return {std::min(begin, kernel), std::min(end, kernel)};
}

// The pixels from ow on that see the same columns of the filter as ow does.
int64_t stretch(const DepthwiseImage& m, int64_t ow, const Range& columns) {
  const ConvGeometry& g = *m.g;
  const bool whole = columns.begin == 0 && columns.end == g.kernel_w;
  if (!whole) return 1;
  const int64_t last = m.w - (g.kernel_w - 1) * g.dilation_w - 1 + g.pad_left;  // of the start of a whole filter
  return std::min(last / g.stride_w + 1, m.out_w) - ow;
}

}  // namespace

void depthwise_row(const DepthwiseImage& m, DepthwiseRow d, int64_t oh, char* scratch) {
  const ConvGeometry& g = *m.g;
  const float* const* const line_of = depthwise_lines(scratch);
  const float** taps = depthwise_lines(scratch) + g.kernel_h;
  int64_t* offsets = reinterpret_cast<int64_t*>(taps + g.taps());
  d.taps = taps;
  d.weight_offset = offsets;
  const int64_t ih = oh * g.stride_h - g.pad_top;
  const Range lines = inside(ih, m.h, g.kernel_h, g.dilation_h);
  float* const y = d.y;
  const float* const residual = d.residual;
  for (int64_t ow = 0; ow < m.out_w; ow += d.count) {
    const int64_t iw = ow * g.stride_w - g.pad_left;
    const Range columns = inside(iw, m.w, g.kernel_w, g.dilation_w);
    d.count = stretch(m, ow, columns);
    d.n_taps = 0;
    for (int64_t kh = lines.begin; kh < lines.end; ++kh) {
      for (int64_t kw = columns.begin; kw < columns.end; ++kw, ++d.n_taps) {
        taps[d.n_taps] = line_of[kh] + (iw + kw * g.dilation_w) * d.pixel;
        offsets[d.n_taps] = (kh * g.kernel_w + kw) * kChannelBlock;
      }
    }
    d.y = y + ow * d.channels;
    d.residual = residual ? residual + ow * d.channels : nullptr;
    d.n_lines = std::max<int64_t>(0, lines.end - lines.begin);
    const bool whole = columns.begin == 0 && columns.end == g.kernel_w && g.dilation_w == 1 && d.n_lines > 0;
    auto kernel = m.table->any;
    if (whole && g.stride_w <= 2 && g.kernel_w == 3) kernel = m.table->k3[g.stride_w - 1];
    if (whole && g.stride_w <= 2 && g.kernel_w == 5) kernel = m.table->k5[g.stride_w - 1];
    kernel(d);
  }
}

}  // namespace mrt
