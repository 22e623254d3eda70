// Python arrays as tensors and back: numpy directly, everything else through DLPack or the array interface.
#include <cstdarg>
#include <cstdlib>
#include <cstring>

#include "binding.h"
#include "dlpack.h"

namespace maas_rt_python {
namespace {

using py::detail::array_descriptor1_proxy;
using py::detail::array_proxy;
using py::detail::npy_api;

// From here on a result gets memory of its own with a vector register's alignment; below, numpy's allocator is quicker.
constexpr size_t kAlignedBytes = 16384;

struct NumpyType {
  int number;
  mrt_dtype dtype;
};
constexpr NumpyType kTypes[] = {
    {npy_api::NPY_BOOL_, {MRT_BOOL, 8, 1}},
    {npy_api::NPY_BYTE_, {MRT_INT, 8, 1}},
    {npy_api::NPY_UBYTE_, {MRT_UINT, 8, 1}},
    {npy_api::NPY_SHORT_, {MRT_INT, 16, 1}},
    {npy_api::NPY_USHORT_, {MRT_UINT, 16, 1}},
    {npy_api::NPY_INT_, {MRT_INT, 32, 1}},
    {npy_api::NPY_UINT_, {MRT_UINT, 32, 1}},
    {npy_api::NPY_LONG_, {MRT_INT, sizeof(long) * 8, 1}},
    {npy_api::NPY_ULONG_, {MRT_UINT, sizeof(long) * 8, 1}},
    {npy_api::NPY_LONGLONG_, {MRT_INT, 64, 1}},
    {npy_api::NPY_ULONGLONG_, {MRT_UINT, 64, 1}},
    {23, {MRT_FLOAT, 16, 1}},
    {npy_api::NPY_FLOAT_, {MRT_FLOAT, 32, 1}},
    {npy_api::NPY_DOUBLE_, {MRT_FLOAT, 64, 1}},
    {npy_api::NPY_CFLOAT_, {MRT_COMPLEX, 64, 1}},
    {npy_api::NPY_CDOUBLE_, {MRT_COMPLEX, 128, 1}},
};

struct NamedType {
  const char* name;
  mrt_dtype dtype;
};
constexpr NamedType kNames[] = {
    {"bool", {MRT_BOOL, 8, 1}},
    {"int8", {MRT_INT, 8, 1}},
    {"int16", {MRT_INT, 16, 1}},
    {"int32", {MRT_INT, 32, 1}},
    {"int64", {MRT_INT, 64, 1}},
    {"uint8", {MRT_UINT, 8, 1}},
    {"uint16", {MRT_UINT, 16, 1}},
    {"uint32", {MRT_UINT, 32, 1}},
    {"uint64", {MRT_UINT, 64, 1}},
    {"float16", {MRT_FLOAT, 16, 1}},
    {"float32", {MRT_FLOAT, 32, 1}},
    {"float64", {MRT_FLOAT, 64, 1}},
    {"complex64", {MRT_COMPLEX, 64, 1}},
    {"complex128", {MRT_COMPLEX, 128, 1}},
    {"bfloat16", {MRT_BFLOAT, 16, 1}},
    {"float8_e4m3fn", {MRT_FLOAT8_E4M3FN, 8, 1}},
    {"float8_e4m3fnuz", {MRT_FLOAT8_E4M3FNUZ, 8, 1}},
    {"float8_e5m2", {MRT_FLOAT8_E5M2, 8, 1}},
    {"float8_e5m2fnuz", {MRT_FLOAT8_E5M2FNUZ, 8, 1}},
    {"float8_e8m0fnu", {MRT_FLOAT8_E8M0FNU, 8, 1}},
    {"float4_e2m1fn", {MRT_FLOAT4_E2M1FN, 4, 1}},
    {"int4", {MRT_INT, 4, 1}},
    {"uint4", {MRT_UINT, 4, 1}},
    {"int2", {MRT_INT, 2, 1}},
    {"uint2", {MRT_UINT, 2, 1}},
};

bool numpy_number(int number, mrt_dtype* out) {
  for (const NumpyType& type : kTypes) {
    if (type.number == number) {
      *out = type.dtype;
      return true;
    }
  }
  return false;
}

bool contiguous(int ndim, const int64_t* shape, const int64_t* strides) {
  int64_t expected = 1;
  for (int i = ndim - 1; i >= 0; --i) {
    if (shape[i] == 0) return true;
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

// Replaces the Python error at hand by an InvalidArgumentError that cites it.
void chain_invalid(const char* what, const char* name) {
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  set_invalid("%s '%s' cannot be read: %S", what, name, value ? value : Py_None);
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(trace);
}

// torch's views that are conjugated or negated only when they are read: `bit` asks, `resolve` computes. DLPack says
// nothing of them. object is replaced by what was computed; false with a Python error.
bool resolve_view(py::object* object, const char* bit, const char* resolve) {
  if (!PyObject_HasAttrString(object->ptr(), bit) || !PyObject_HasAttrString(object->ptr(), resolve)) return true;
  try {
    if (py::bool_(object->attr(bit)())) *object = object->attr(resolve)();
    return true;
  } catch (py::error_already_set& error) {
    error.restore();
    return false;
  }
}

}  // namespace

std::string dtype_name(mrt_dtype dtype) {
  for (const NamedType& type : kNames) {
    if (same(type.dtype, dtype)) return type.name;
  }
  if (dtype.code == MRT_INT) return "int" + std::to_string(dtype.bits);
  if (dtype.code == MRT_UINT) return "uint" + std::to_string(dtype.bits);
  return "dtype(" + std::to_string(dtype.code) + ", " + std::to_string(dtype.bits) + ")";
}

py::object numpy_dtype(mrt_dtype dtype) {
  for (const NumpyType& type : kTypes) {
    if (same(type.dtype, dtype)) {
      return py::reinterpret_steal<py::object>(npy_api::get().PyArray_DescrFromType_(type.number));
    }
  }
  for (const NamedType& type : kNames) {
    if (!same(type.dtype, dtype)) continue;
    try {
      return py::module_::import("numpy").attr("dtype")(py::module_::import("ml_dtypes").attr(type.name));
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_ImportError)) throw;
    }
  }
  return {};
}

bool from_numpy_dtype(PyObject* descr, mrt_dtype* out) {
  const auto* proxy = array_descriptor1_proxy(descr);
  if (numpy_number(proxy->type_num, out)) return true;
  if (proxy->type_num < 256) return false;  // ml_dtypes registers its types from there on
  try {
    const auto name = py::handle(descr).attr("name").cast<std::string>();
    for (const NamedType& type : kNames) {
      if (name == type.name) {
        *out = type.dtype;
        return true;
      }
    }
  } catch (py::error_already_set&) {
  }
  return false;
}

size_t dense_bytes(mrt_dtype dtype, int ndim, const int64_t* shape) {
  size_t n = 1;
  for (int i = 0; i < ndim; ++i) n *= static_cast<size_t>(shape[i]);
  return n * ((dtype.bits + 7) / 8);
}

std::string shape_text(int ndim, const int64_t* shape) {
  std::string text = "(";
  for (int i = 0; i < ndim; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (ndim == 1 ? ",)" : ")");
}

PyObject* new_array(const py::object& descr, int ndim, const int64_t* shape, size_t bytes) {
  auto& api = npy_api::get();
  static_assert(sizeof(Py_intptr_t) == sizeof(int64_t), "extents are copied as they are");
  const auto* dims = reinterpret_cast<const Py_intptr_t*>(shape);
  void* data = nullptr;
  PyObject* capsule = nullptr;
  if (bytes >= kAlignedBytes) {
    data = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!data) return PyErr_NoMemory();
    capsule = PyCapsule_New(data, nullptr, [](PyObject* c) { std::free(PyCapsule_GetPointer(c, nullptr)); });
    if (!capsule) {
      std::free(data);
      return nullptr;
    }
  }
  descr.inc_ref();  // taken over by the array
  PyObject* array =
      api.PyArray_NewFromDescr_(api.PyArray_Type_, descr.ptr(), ndim, dims, nullptr, data,
                                data ? npy_api::NPY_ARRAY_C_CONTIGUOUS_ | npy_api::NPY_ARRAY_WRITEABLE_ : 0, nullptr);
  if (capsule && (!array || api.PyArray_SetBaseObject_(array, capsule) != 0)) {  // takes the capsule over
    if (!array) Py_DECREF(capsule);
    Py_XDECREF(array);
    return nullptr;
  }
  return array;
}

namespace {

// A numpy.ma.MaskedArray, whose elements alone are not its value.
bool is_masked(PyObject* array) {
  return Py_TYPE(array) != reinterpret_cast<PyTypeObject*>(npy_api::get().PyArray_Type_) &&
         PyObject_HasAttrString(array, "mask") && PyObject_HasAttrString(array, "filled");
}

// A string, or a list or tuple that begins with one, at whatever depth.
bool is_text(PyObject* object) {
  for (int depth = 0; depth < MRT_MAX_RANK; ++depth) {
    if (PyUnicode_Check(object) || PyBytes_Check(object)) return true;
    if (!(PyList_Check(object) || PyTuple_Check(object)) || PySequence_Fast_GET_SIZE(object) == 0) return false;
    object = PySequence_Fast_GET_ITEM(object, 0);
  }
  return false;
}

}  // namespace

bool ArrayView::view_numpy(PyObject* array, const char* what, const char* name, mrt_tensor* out) {
  const auto* a = array_proxy(array);
  const auto* descr = array_descriptor1_proxy(a->descr);
  if (!from_numpy_dtype(a->descr, &out->dtype)) {
    if (std::strchr("OSUT", descr->kind)) {
      set_invalid(
          "%s '%s' has dtype %S, which is no tensor's: convert it; a tensor of strings is given as their bytes, by "
          "maas_rt.encode_strings",
          what, name, a->descr);
    } else {
      set_invalid("%s '%s' has dtype %S, which is no tensor's: convert it", what, name, a->descr);
    }
    return false;
  }
  if (a->nd > MRT_MAX_RANK) {
    set_invalid("%s '%s' has %d dimensions and at most %d are supported", what, name, a->nd, MRT_MAX_RANK);
    return false;
  }
  const bool plain = (a->flags & npy_api::NPY_ARRAY_C_CONTIGUOUS_) != 0;
  const int64_t size = (out->dtype.bits + 7) / 8;
  bool usable = (a->flags & npy_api::NPY_ARRAY_ALIGNED_) != 0 && descr->byteorder != '>';
  for (int i = 0; i < a->nd; ++i) {
    shape_[i] = a->dimensions[i];
    if (!plain) {
      usable = usable && a->strides[i] % size == 0;
      strides_[i] = a->strides[i] / size;
    }
  }
  if (!usable) {
    try {
      py::object dtype = py::handle(a->descr).attr("newbyteorder")("=");
      py::object copy = py::module_::import("numpy").attr("array")(py::handle(array), dtype, py::arg("order") = "C");
      return view_numpy(copy.ptr(), what, name, out);
    } catch (py::error_already_set& error) {
      error.restore();
      return false;
    }
  }
  Py_INCREF(array);
  owner_ = array;
  out->data = a->data;
  out->ndim = a->nd;
  out->shape = shape_;
  out->strides = plain ? nullptr : strides_;
  out->bytes = 0;
  return true;
}

bool ArrayView::view_dlpack(PyObject* object, const char* what, const char* name, mrt_tensor* out) {
  try {
    const auto device = py::handle(object).attr("__dlpack_device__")().cast<py::tuple>();
    const int type = device[0].cast<int>();
    if (type != 1 && type != 3) {
      set_invalid("%s '%s' is on DLPack device %d and must be on the CPU: move it there", what, name, type);
      return false;
    }
    owner_ = py::handle(object).attr("__dlpack__")().release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
    chain_invalid(what, name);
    return false;
  }
  const DlTensor* t = nullptr;
  bool padded = false;  // elements of fewer than 8 bits lie in a byte each
  if (PyCapsule_IsValid(owner_, "dltensor")) {
    t = &static_cast<DlManagedTensor*>(PyCapsule_GetPointer(owner_, "dltensor"))->tensor;
  } else if (PyCapsule_IsValid(owner_, "dltensor_versioned")) {
    auto* managed = static_cast<DlManagedTensorVersioned*>(PyCapsule_GetPointer(owner_, "dltensor_versioned"));
    if (managed->major == 1) t = &managed->tensor;
    padded = (managed->flags & 4) != 0;
  }
  if (!t || t->ndim < 0 || t->ndim > MRT_MAX_RANK) {
    set_invalid("%s '%s' gives no DLPack tensor of at most %d dimensions", what, name, MRT_MAX_RANK);
    return false;
  }
  if (t->bits < 8 && !padded) {
    set_invalid("%s '%s' packs several elements into a byte and must have one in each: unpack it", what, name);
    return false;
  }
  // The capsule, unread, keeps its promise to delete the tensor when it goes.
  for (int i = 0; i < t->ndim; ++i) {
    shape_[i] = t->shape[i];
    if (t->strides) strides_[i] = t->strides[i];
  }
  bool empty = false;
  for (int i = 0; i < t->ndim; ++i) empty = empty || t->shape[i] == 0;
  if (!t->data && !empty) {
    set_invalid("%s '%s' is a tensor without memory, whose elements are only implied: give one that holds them", what,
                name);
    return false;
  }
  out->data = static_cast<char*>(t->data) + t->byte_offset;
  out->dtype = {t->code, t->bits, t->lanes};
  out->ndim = t->ndim;
  out->shape = shape_;
  out->strides = t->strides && !contiguous(t->ndim, shape_, strides_) ? strides_ : nullptr;
  out->bytes = 0;
  return true;
}

bool ArrayView::view(PyObject* object, const char* what, const char* name, mrt_tensor* out) {
  if (is_numpy(object)) {
    if (is_masked(object)) {
      set_invalid("%s '%s' is a masked array, and a tensor has no mask: give x.filled(VALUE)", what, name);
      return false;
    }
    return view_numpy(object, what, name, out);
  }
  if (PyObject_HasAttrString(object, "__dlpack__")) {
    auto plain = py::reinterpret_borrow<py::object>(object);
    if (!resolve_view(&plain, "is_conj", "resolve_conj") || !resolve_view(&plain, "is_neg", "resolve_neg")) {
      chain_invalid(what, name);
      return false;
    }
    return view_dlpack(plain.ptr(), what, name, out);
  }
  if (PyObject_HasAttrString(object, "__array_interface__")) {
    try {
      const py::object array = py::module_::import("numpy").attr("asarray")(py::handle(object));
      return view_numpy(array.ptr(), what, name, out);
    } catch (py::error_already_set& error) {
      error.restore();
      chain_invalid(what, name);
      return false;
    }
  }
  if (is_text(object)) {
    set_invalid("%s '%s' is text (a %s): a tensor of strings is given as their bytes, by maas_rt.encode_strings", what,
                name, Py_TYPE(object)->tp_name);
  } else {
    set_invalid("%s '%s' is a %s and must be an array: numpy's, or any with __dlpack__ or __array_interface__", what,
                name, Py_TYPE(object)->tp_name);
  }
  return false;
}

bool ArrayView::view_writable(PyObject* object, const char* name, mrt_tensor* out, bool* copy) {
  *copy = false;
  if (is_numpy(object)) {
    if (is_masked(object)) {
      set_invalid("the buffer for output '%s' is a masked array, and a tensor has no mask: give x.data", name);
      return false;
    }
    const int flags = array_proxy(object)->flags;
    if (!(flags & npy_api::NPY_ARRAY_WRITEABLE_)) {
      set_invalid("the buffer for output '%s' is read-only and must be writable", name);
      return false;
    }
    const auto* descr = array_descriptor1_proxy(array_proxy(object)->descr);
    *copy = !(flags & npy_api::NPY_ARRAY_C_CONTIGUOUS_) || !(flags & npy_api::NPY_ARRAY_ALIGNED_) ||
            descr->byteorder == '>';
    if (*copy) return true;
    if (!view_numpy(object, "the buffer for output", name, out)) return false;
  } else if (PyObject_HasAttrString(object, "__dlpack__")) {
    auto plain = py::reinterpret_borrow<py::object>(object);
    if (!resolve_view(&plain, "is_conj", "resolve_conj") || !resolve_view(&plain, "is_neg", "resolve_neg")) {
      chain_invalid("the buffer for output", name);
      return false;
    }
    if (plain.ptr() != object) {
      set_invalid(
          "the buffer for output '%s' is a view that is negated or conjugated when it is read: give a plain one", name);
      return false;
    }
    if (!view_dlpack(object, "the buffer for output", name, out)) return false;
    if (PyCapsule_IsValid(owner_, "dltensor_versioned") &&
        (static_cast<DlManagedTensorVersioned*>(PyCapsule_GetPointer(owner_, "dltensor_versioned"))->flags & 1)) {
      set_invalid("the buffer for output '%s' is read-only and must be writable", name);
      return false;
    }
    if (out->strides) {
      set_invalid("the buffer for output '%s' must be contiguous: give a contiguous tensor, or a numpy array", name);
      return false;
    }
  } else {
    set_invalid("the buffer for output '%s' is a %s and must be a writable array (numpy's, or one with __dlpack__)",
                name, Py_TYPE(object)->tp_name);
    return false;
  }
  out->bytes = dense_bytes(out->dtype, out->ndim, out->shape);
  return true;
}

void set_invalid(const char* format, ...) {
  va_list args;
  va_start(args, format);
  PyObject* message = PyUnicode_FromFormatV(format, args);
  va_end(args);
  if (!message) return;
  try {
    PyErr_SetObject(py::module_::import("maas_rt._errors").attr("InvalidArgumentError").ptr(), message);
  } catch (py::error_already_set& error) {
    error.restore();
  }
  Py_DECREF(message);
}

void set_status_error(mrt_status status) {
  // Read first: importing may run code that calls the library.
  const std::string message = mrt_last_error();
  try {
    // A path's bytes may be no UTF-8.
    auto text = py::reinterpret_steal<py::object>(
        PyUnicode_DecodeUTF8(message.data(), static_cast<Py_ssize_t>(message.size()), "backslashreplace"));
    if (!text) return;
    py::object error = py::module_::import("maas_rt._errors").attr("from_status")(mrt_status_name(status), text);
    PyErr_SetObject(py::type::of(error).ptr(), error.ptr());
  } catch (py::error_already_set& error) {
    error.restore();
  }
}

void throw_status(mrt_status status) {
  set_status_error(status);
  throw py::error_already_set();
}

}  // namespace maas_rt_python
