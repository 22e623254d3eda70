#include "runtime/shapes.h"

#include "runtime/validate.h"

namespace mrt {

using plan::Storage;

bool tensor_bytes(DType dtype, const int64_t* shape, size_t ndim, size_t* out) {
  int64_t bytes = static_cast<int64_t>(dtype.bytes());
  bool zero = false;
  for (size_t d = 0; d < ndim; ++d) {
    if (shape[d] < 0) return false;
    zero = zero || shape[d] == 0;
    // The product without zeros is bounded too: kernels multiply some extents only.
    if (shape[d] > 0 && (!checked_mul(bytes, shape[d], &bytes) || bytes > kMaxTensorBytes)) return false;
  }
  *out = zero ? 0 : static_cast<size_t>(bytes);
  return true;
}

Status value_shape(const Program& program, const Bindings& bindings, uint32_t value, int64_t* shape, size_t* bytes) {
  const plan::Value& v = program.plan().values[value];
  const size_t n = v.dims.size();
  for (size_t d = 0; d < n; ++d) {
    const ExprValue& e = bindings.exprs[v.dims[d]];
    const char* problem = e.known == Known::no         ? "has no value yet"
                          : e.known == Known::overflow ? "overflows 64 bits"
                          : e.known == Known::division ? "divides by zero"
                          : e.value < 0                ? "is negative"
                                                       : nullptr;
    if (problem)
      return fail(MRT_ERROR_SHAPE, "dimension %zu of '%s', %s, %s with these inputs", d, v.name.c_str(),
                  program.exprs().text(v.dims[d]).c_str(), problem);
    shape[d] = e.value;
  }
  if (!tensor_bytes({v.dtype_code, v.dtype_bits}, shape, n, bytes))
    return fail(MRT_ERROR_SHAPE, "'%s' would need more than 2^46 bytes with these inputs", v.name.c_str());
  int64_t stride = 1;
  for (size_t d = n; d-- > 0;) {
    shape[n + d] = stride;
    stride *= shape[d];  // 0 behind an empty extent, as generated functions expect
  }
  return Status();
}

Status view_offset(const Program& program, const Bindings& bindings, uint32_t value, size_t* out) {
  const plan::Plan& plan = program.plan();
  int64_t total = 0;
  uint32_t v = value;
  for (; plan.values[v].storage == Storage::view; v = plan.values[v].base) {
    const ExprValue& e = bindings.exprs[static_cast<size_t>(plan.values[v].offset)];
    if (e.known != Known::yes || e.value < 0 || !checked_add(total, e.value, &total) || total > kMaxTensorBytes)
      return fail(MRT_ERROR_SHAPE, "the place of view '%s' is not known or out of range with these inputs",
                  plan.values[value].name.c_str());
  }
  const plan::Value &view = plan.values[value], &root = plan.values[v];
  const int64_t place = total + (root.storage == Storage::constant ? root.offset : 0);
  if (place % static_cast<int64_t>(DType{view.dtype_code, view.dtype_bits}.alignment()) != 0)
    return fail(MRT_ERROR_SHAPE, "view '%s' is not aligned to its elements", view.name.c_str());
  *out = static_cast<size_t>(total);
  return Status();
}

}  // namespace mrt
