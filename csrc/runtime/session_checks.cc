// Whether the tensors that a run is given are what the program takes.
#include <algorithm>
#include <string>

#include "runtime/session.h"
#include "runtime/shapes.h"
#include "runtime/texts.h"

namespace mrt {

Status Session::check_input(const mrt_tensor& t, const ValueText& text) const {
  if (t.dtype.lanes > 1)
    return fail(MRT_ERROR_DTYPE, "input '%s' has elements of %d lanes, expected 1", text.name.c_str(), t.dtype.lanes);
  if (t.dtype.code != text.dtype.code || t.dtype.bits != text.dtype.bits) {
    return fail(MRT_ERROR_DTYPE, "input '%s' is %s, expected %s", text.name.c_str(),
                name_of({t.dtype.code, t.dtype.bits}).c_str(), name_of(text.dtype).c_str());
  }
  if (t.ndim > 0 && !t.shape)
    return fail(MRT_ERROR_SHAPE, "input '%s' has no shape, expected %zu extents: %s", text.name.c_str(),
                text.dims.size(), declared_text(text).c_str());
  if (t.ndim != static_cast<int32_t>(text.dims.size())) {
    const bool readable = t.ndim >= 0 && t.ndim <= MRT_MAX_RANK;
    return fail(MRT_ERROR_SHAPE, "input '%s' has %d dimensions%s%s, expected %zu: %s", text.name.c_str(), t.ndim,
                readable ? " " : "", readable ? shape_text(t.shape, t.ndim).c_str() : "", text.dims.size(),
                declared_text(text).c_str());
  }
  return Status();
}

// Whether the caller's tensor takes the value: dtype, and room by bytes or else by shape, which no other output takes.
Status Session::check_room(const RunRequest& r, size_t output, const Tensor& value) {
  const mrt_tensor& t = r.outputs[output];
  const char* name = program_->entries()[r.entry].output_texts[output].name.c_str();
  if (t.dtype.bits != 0 && (t.dtype.code != value.dtype.code || t.dtype.bits != value.dtype.bits)) {
    return fail(MRT_ERROR_DTYPE, "output '%s' is to be written as %s, expected %s", name,
                name_of({t.dtype.code, t.dtype.bits}).c_str(), name_of(value.dtype).c_str());
  }
  const bool has_shape = t.ndim >= 0 && t.ndim <= MRT_MAX_RANK && (t.shape || t.ndim == 0);
  const bool same = has_shape && t.ndim == value.ndim &&
                    std::equal(value.shape, value.shape + value.ndim, t.shape ? t.shape : value.shape);
  if (t.strides && !same)
    return fail(MRT_ERROR_SHAPE, "output '%s' has strides for the shape %s, expected %s", name,
                has_shape ? shape_text(t.shape, t.ndim).c_str() : "of another rank",
                shape_text(value.shape, value.ndim).c_str());
  if (r.exact_outputs && !same)
    return fail(MRT_ERROR_SHAPE,
                "the buffer for output '%s' has shape %s and the result has %s: give a buffer of that shape", name,
                has_shape ? shape_text(t.shape, t.ndim).c_str() : "of another rank",
                shape_text(value.shape, value.ndim).c_str());
  written_[output] = span_of(t.data, value.bytes, value.shape, t.strides, value.ndim, value.dtype.bytes());
  MRT_TRY(check_apart(r, output));
  if (t.strides) return Status();
  size_t room = t.bytes;
  if (room == 0 && (!has_shape || !tensor_bytes(value.dtype, t.shape, static_cast<size_t>(t.ndim), &room))) room = 0;
  if (room >= value.bytes) return Status();
  return fail(MRT_ERROR_CAPACITY, "the buffer for output '%s' has %zu bytes, expected at least %zu for shape %s", name,
              room, value.bytes, shape_text(value.shape, value.ndim).c_str());
}

// Of the outputs whose memory is known so far.
Status Session::check_apart(const RunRequest& r, size_t output) const {
  const std::vector<ValueText>& texts = program_->entries()[r.entry].output_texts;
  for (size_t i = 0; i < r.output_count; ++i)
    if (i != output && written_[output].overlaps(written_[i]))
      return fail(MRT_ERROR_INVALID_ARGUMENT, "the buffers for outputs '%s' and '%s' share memory: give each its own",
                  texts[i].name.c_str(), texts[output].name.c_str());
  if (overlaps_state(r, written_[output]))
    return fail(MRT_ERROR_INVALID_ARGUMENT,
                "the buffer for output '%s' lies in the run's state: give memory of its own",
                texts[output].name.c_str());
  return Status();
}

}  // namespace mrt
