// pad: y[i_0, ...] = x[i_0 - before_0, ...]; what lies outside of x is `value`, or an element of x that the mode finds.
//
// Modes as in numpy.pad: constant; reflect (about the edge, which is not repeated, again and again if need be); edge
// (the nearest element); wrap (periodic). A negative `before` crops. Trailing axes that stay as they are make one run.
#include <cinttypes>
#include <cmath>

#include "kernels/movement/movement.h"
#include "kernels/movement/reference.h"

namespace mrt {
namespace {

constexpr const char* kName = "pad";

constexpr int64_t kLimit = int64_t{1} << 40;

constexpr Operand kInputs[] = {{"x", kWhole, kAnyRank}};
constexpr Operand kOutputs[] = {{"y", kLikeFirst, kAnyRank}};
constexpr Attribute kAttributes[] = {integers("before", MRT_MAX_RANK, -kLimit, kLimit).with(kListed),
                                     number("value", 0).with(kInfinite),  // people pad with infinities
                                     choice("mode", "constant reflect edge wrap")};
constexpr Contract kContract = {kName, "", kInputs, kOutputs, kAttributes};

enum Mode : int32_t { kConstant, kReflect, kEdge, kWrap };

struct Params {
  int64_t before[MRT_MAX_RANK];
  double value;
  int32_t rank, mode, reference;
};

Status prepare(const Attrs& attrs, Isa isa, void* params) {
  Params* p = static_cast<Params*>(params);
  p->reference = isa == Isa::reference ? 1 : 0;
  MRT_TRY(attr_choice(attrs, "mode", &p->mode));
  MRT_TRY(attr_float(attrs, "value", &p->value));
  return attr_list(attrs, "before", p->before, &p->rank);
}

uint16_t half_bits(double value) {
  const float f = static_cast<float>(value);
  uint32_t b;
  std::memcpy(&b, &f, 4);
  const uint32_t sign = b >> 16 & 0x8000, magnitude = b & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // rounds to 65536 or beyond
  if (magnitude < 0x38800000) {                                              // below 2^-14: in units of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(std::fabs(f) * 16777216.0)));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);  // to nearest even
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

uint16_t bfloat_bits(double value) {
  const float f = static_cast<float>(value);
  uint32_t b;
  std::memcpy(&b, &f, 4);
  if (f != f) return static_cast<uint16_t>(b >> 16 | 0x40);
  return static_cast<uint16_t>((b + 0x7fff + (b >> 16 & 1)) >> 16);
}

// The bytes of `value` in a dtype; false if the dtype cannot hold it.
bool encode(double value, DType t, uint64_t* out) {
  *out = 0;
  if (value == 0 && !std::signbit(value)) return true;
  if (t.code == MRT_FLOAT && t.bits == 64) {
    std::memcpy(out, &value, 8);
  } else if (t.code == MRT_FLOAT && t.bits == 32) {
    const float f = static_cast<float>(value);
    std::memcpy(out, &f, 4);
  } else if (t.code == MRT_FLOAT && t.bits == 16) {
    *out = half_bits(value);
  } else if (t.code == MRT_BFLOAT && t.bits == 16) {
    *out = bfloat_bits(value);
  } else if (t.code == MRT_BOOL) {
    *out = value != 0 ? 1 : 0;
  } else if (t.code == MRT_INT || t.code == MRT_UINT) {
    const double top = std::ldexp(1.0, t.bits - (t.code == MRT_INT ? 1 : 0));
    const double bottom = t.code == MRT_INT ? -top : 0;
    if (value != std::floor(value) || !(value >= bottom) || !(value < top)) return false;
    *out = value < 0 ? static_cast<uint64_t>(static_cast<int64_t>(value)) : static_cast<uint64_t>(value);
  } else {
    return false;
  }
  return true;
}

Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  MRT_TRY(check_tensor(kName, "x", in[0], p.rank));
  MRT_TRY(check_tensor(kName, "y", out[0], p.rank));
  uint64_t bytes;
  if (p.mode == kConstant && !encode(p.value, out[0].dtype, &bytes)) {
    return fail(MRT_ERROR_DTYPE, "%s: value %g does not fit type code %d with %d bits", kName, p.value,
                out[0].dtype.code, out[0].dtype.bits);
  }
  if (p.mode != kConstant && has_no_elements(in[0]) && !has_no_elements(out[0])) {
    return fail(MRT_ERROR_SHAPE, "%s: x has no elements to pad with, expected mode 'constant'", kName);
  }
  for (int32_t d = 0; d < p.rank && !has_no_elements(out[0]); ++d) {
    if (out[0].shape[d] > kLimit || in[0].shape[d] > kLimit) {
      return fail(MRT_ERROR_SHAPE, "%s: dimension %d is too large", kName, d);
    }
  }
  return Status();
}

// Where along an axis of x position i of y comes from; -1: from the value.
int64_t source_of(int32_t mode, int64_t i, int64_t extent) {
  if (i >= 0 && i < extent) return i;
  if (mode == kConstant) return -1;
  if (mode == kEdge) return i < 0 ? 0 : extent - 1;
  const int64_t period = mode == kWrap ? extent : extent > 1 ? 2 * (extent - 1) : 1;
  const int64_t k = (i % period + period) % period;
  return k < extent ? k : period - k;
}

// The last axis that changes; behind it, everything is one run.
int32_t last_changed(const Params& p, const Tensor& x, const Tensor& y) {
  int32_t d = p.rank - 1;
  while (d >= 0 && p.before[d] == 0 && x.shape[d] == y.shape[d]) --d;
  return d;
}

// `count` runs of `run` bytes, all of the value.
void fill(char* y, int64_t count, int64_t run, const void* value, size_t size) {
  const int64_t n = count * run / static_cast<int64_t>(size);
  for (int64_t i = 0; i < n; ++i) std::memcpy(y + i * static_cast<int64_t>(size), value, size);
}

struct Row {  // one row of y along the last changed axis
  int64_t extent, x_extent, before, run;
};

void pad_row(const Row& r, int32_t mode, const char* x, char* y, const void* value, size_t size) {
  // Positions [begin, end) of y lie inside of x.
  int64_t begin = r.before < 0 ? 0 : r.before < r.extent ? r.before : r.extent;
  int64_t end = r.before + r.x_extent;
  end = end < begin ? begin : end < r.extent ? end : r.extent;
  if (end > begin) {
    copy_run(y + begin * r.run, x + (begin - r.before) * r.run, static_cast<size_t>((end - begin) * r.run));
  }
  if (mode == kConstant) {
    fill(y, begin, r.run, value, size);
    fill(y + end * r.run, r.extent - end, r.run, value, size);
    return;
  }
  const auto outside = [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t from = source_of(mode, i - r.before, r.x_extent);
      copy_run(y + i * r.run, x + from * r.run, static_cast<size_t>(r.run));
    }
  };
  outside(0, begin);
  outside(end, r.extent);
}

int32_t run(const void* params, const Tensor* in, int, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const Tensor &x = in[0], &y = out[0];
  if (has_no_elements(y)) return MRT_OK;
  const size_t size = y.dtype.bytes();
  uint64_t value = 0;
  encode(p.value, y.dtype, &value);  // little-endian: the low bytes come first
  if (p.reference != 0) {
    move_reference(x, y, &value, [&](const int64_t* index) {
      int64_t from[MRT_MAX_RANK];
      for (int32_t d = 0; d < p.rank; ++d) {
        from[d] = source_of(p.mode, index[d] - p.before[d], x.shape[d]);
        if (from[d] < 0) return int64_t{-1};
      }
      return flat_index(x, from);
    });
    return MRT_OK;
  }
  const int32_t axis = last_changed(p, x, y);
  if (axis < 0) {
    std::memcpy(y.data, x.data, static_cast<size_t>(y.elements()) * size);
    return MRT_OK;
  }
  const Row r{y.shape[axis], x.shape[axis], p.before[axis], y.extent(axis + 1, y.ndim) * static_cast<int64_t>(size)};
  const int64_t rows = y.extent(0, axis), bytes = r.extent * r.run;
  parallel_ranges(ctx, rows, kMoveGrain / bytes, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t from = 0, stride = 1, rest = i;
      for (int32_t d = axis - 1; d >= 0 && from >= 0; --d) {
        const int64_t k = source_of(p.mode, rest % y.shape[d] - p.before[d], x.shape[d]);
        from = k < 0 ? -1 : from + k * stride;
        stride *= x.shape[d];
        rest /= y.shape[d];
      }
      char* to = y.as<char>() + i * bytes;
      if (from < 0) {
        fill(to, r.extent, r.run, &value, size);
      } else {
        pad_row(r, p.mode, x.as<char>() + from * r.x_extent * r.run, to, &value, size);
      }
    }
  });
  return MRT_OK;
}

}  // namespace

const Operator kOperator_pad = {&kContract, kPortable, sizeof(Params), prepare, check, run};

}  // namespace mrt
