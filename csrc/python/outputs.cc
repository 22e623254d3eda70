#include "outputs.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "few.h"

namespace maas_rt_python {
namespace {

bool check_buffer(const ValueSpec& spec, const mrt_tensor& tensor) {
  if (!same(tensor.dtype, spec.dtype)) {
    set_invalid("the buffer for output '%s' has dtype %s and must have %s", spec.text.c_str(),
                dtype_name(tensor.dtype).c_str(), dtype_name(spec.dtype).c_str());
    return false;
  }
  bool fits = tensor.ndim == static_cast<int>(spec.shape.size());
  for (int i = 0; fits && i < tensor.ndim; ++i) fits = spec.shape[i] < 0 || spec.shape[i] == tensor.shape[i];
  if (!fits) {
    set_invalid("the buffer for output '%s' has shape %s and must have %S", spec.text.c_str(),
                shape_text(tensor.ndim, tensor.shape).c_str(), PyTuple_GetItem(spec.info.ptr(), 2));
  }
  return fits;
}

// A new array that the result is written into, of a shape that is known.
bool write_into_new(const ValueSpec& spec, int ndim, const py::ssize_t* shape, Output* output, mrt_tensor* tensor) {
  tensor->bytes = dense_bytes(spec.dtype, ndim, shape);
  output->array = py::reinterpret_steal<py::object>(new_array(spec.descr, ndim, shape, tensor->bytes));
  if (!output->array) return false;
  const auto* array = py::detail::array_proxy(output->array.ptr());
  tensor->data = array->data;
  tensor->dtype = spec.dtype;
  tensor->ndim = ndim;
  tensor->shape = array->dimensions;
  return true;
}

// Whether elements of an array with these strides may lie in one place: those of a step along one dimension reach no
// further than a step along the next longer one.
bool may_overlap(const py::detail::PyArray_Proxy& array, py::ssize_t item) {
  py::ssize_t reach = item;
  Few<int, 8> order(static_cast<size_t>(array.nd));
  for (int i = 0; i < array.nd; ++i) order[i] = i;
  std::sort(order.data(), order.data() + array.nd,
            [&](int a, int b) { return std::abs(array.strides[a]) < std::abs(array.strides[b]); });
  for (int i = 0; i < array.nd; ++i) {
    const py::ssize_t extent = array.dimensions[order[i]], stride = std::abs(array.strides[order[i]]);
    if (extent == 0) return false;
    if (extent == 1) continue;
    if (stride < reach) return true;
    reach += (extent - 1) * stride;
  }
  return false;
}

// The same for a caller's buffer that the result is to be copied into.
bool write_into_like(const ValueSpec& spec, Output* output, mrt_tensor* tensor) {
  const auto* like = py::detail::array_proxy(output->copy_to.ptr());
  try {
    const py::object dtype = output->copy_to.attr("dtype");
    if (!dtype.equal(spec.descr)) {
      set_invalid("the buffer for output '%s' has dtype %S and must have %S", spec.text.c_str(), dtype.ptr(),
                  spec.descr.ptr());
      return false;
    }
    if (may_overlap(*like, dtype.attr("itemsize").cast<py::ssize_t>())) {
      set_invalid("elements of the buffer for output '%s' lie in one place: give a buffer with a place for each",
                  spec.text.c_str());
      return false;
    }
  } catch (py::error_already_set& error) {
    error.restore();
    return false;
  }
  return write_into_new(spec, like->nd, like->dimensions, output, tensor) && check_buffer(spec, *tensor);
}

}  // namespace

bool prepare_output(const ValueSpec& spec, PyObject* buffer, Output* output, mrt_tensor* tensor) {
  std::memset(tensor, 0, sizeof(*tensor));
  if (buffer) {
    bool copy = false;
    if (!output->view.view_writable(buffer, spec.text.c_str(), tensor, &copy)) return false;
    if (!copy) {
      if (!check_buffer(spec, *tensor)) return false;
      output->array = py::reinterpret_borrow<py::object>(buffer);
      output->is_callers = true;
      return true;
    }
    output->copy_to = py::reinterpret_borrow<py::object>(buffer);
  }
  if (!spec.descr) {
    set_invalid("output '%s' has dtype %s, for which numpy needs the package ml_dtypes: install it", spec.text.c_str(),
                dtype_name(spec.dtype).c_str());
    return false;
  }
  if (output->copy_to) return write_into_like(spec, output, tensor);
  return !spec.fixed || write_into_new(spec, static_cast<int>(spec.shape.size()), spec.shape.data(), output, tensor);
}

bool check_apart(const EntrySpec& entry, PyObject* out, Output* outputs) {
  try {
    const size_t n = entry.outputs.size();
    for (size_t i = 0; i < n; ++i) {
      if (!outputs[i].copy_to) continue;
      for (size_t j = 0; j < n; ++j) {
        PyObject* other = i == j ? nullptr : PyDict_GetItemWithError(out, entry.outputs[j].name.ptr());
        if (!other || !is_numpy(other)) continue;
        if (!py::module_::import("numpy").attr("shares_memory")(outputs[i].copy_to, py::handle(other)).cast<bool>())
          continue;
        set_invalid("the buffers for outputs '%s' and '%s' share memory: give each its own",
                    entry.outputs[std::min(i, j)].text.c_str(), entry.outputs[std::max(i, j)].text.c_str());
        return false;
      }
    }
  } catch (py::error_already_set& error) {
    error.restore();
    return false;
  }
  return true;
}

bool finish_output(const ValueSpec& spec, const mrt_tensor& tensor, Output* output) {
  if (output->is_callers) return true;
  if (!output->array) {
    const size_t bytes = dense_bytes(spec.dtype, tensor.ndim, tensor.shape);
    output->array = py::reinterpret_steal<py::object>(new_array(spec.descr, tensor.ndim, tensor.shape, bytes));
    if (!output->array) return false;
    if (bytes) std::memcpy(py::detail::array_proxy(output->array.ptr())->data, tensor.data, bytes);
  }
  if (output->copy_to) {
    try {
      py::module_::import("numpy").attr("copyto")(output->copy_to, output->array);
    } catch (py::error_already_set& error) {
      error.restore();
      return false;
    }
    output->array = output->copy_to;
  }
  return true;
}

}  // namespace maas_rt_python
