// The registry, packing and single kernels, for the compiler and for tests.
#include <deque>

#include "binding.h"
#include "released.h"

namespace maas_rt_python {
namespace {

// A dict of attributes (int, float, text, or a sequence of one of the first two) as the C API wants them.
class Attributes {
 public:
  explicit Attributes(const py::dict& attrs) {
    for (const auto& item : attrs) {
      texts_.push_back(item.first.cast<std::string>());
      const char* key = texts_.back().c_str();
      if (py::isinstance<py::str>(item.second)) {
        texts_.push_back(item.second.cast<std::string>());
        attrs_.push_back({key, nullptr, nullptr, texts_.back().c_str(), 1});
      } else if (!add_numbers(key, item.second)) {
        PyErr_Clear();
        set_invalid("attribute '%s' is %R and must be a number, text, or a list of numbers", key, item.second.ptr());
        throw py::error_already_set();
      }
    }
  }
  const mrt_attr* data() const { return attrs_.data(); }
  size_t size() const { return attrs_.size(); }

 private:
  bool add_numbers(const char* key, py::handle value) {
    const bool scalar = PyFloat_Check(value.ptr()) || PyIndex_Check(value.ptr());
    if (!scalar && !py::isinstance<py::sequence>(value)) return false;
    const py::list items =
        scalar ? py::list(py::make_tuple(value)) : py::list(py::reinterpret_borrow<py::object>(value));
    std::vector<int64_t> ints;
    std::vector<double> floats;
    bool real = false;
    for (py::handle item : items) {
      real = real || !PyIndex_Check(item.ptr());
      floats.push_back(PyFloat_AsDouble(item.ptr()));
      if (PyErr_Occurred()) return false;
      if (real) continue;
      const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(item.ptr()));
      ints.push_back(number ? PyLong_AsLongLong(number.ptr()) : 0);
      if (PyErr_Occurred()) return false;
    }
    ints.reserve(1);  // a list without elements is still a list, not a null pointer
    if (real) {
      floats_.push_back(std::move(floats));
      attrs_.push_back({key, nullptr, floats_.back().data(), nullptr, floats_.back().size()});
    } else {
      ints_.push_back(std::move(ints));
      attrs_.push_back({key, ints_.back().data(), nullptr, nullptr, ints_.back().size()});
    }
    return true;
  }

  std::deque<std::string> texts_;  // deques: elements stay where they are
  std::deque<std::vector<int64_t>> ints_;
  std::deque<std::vector<double>> floats_;
  std::vector<mrt_attr> attrs_;
};

void view(ArrayView* array, py::handle object, const char* what, const std::string& name, mrt_tensor* out) {
  if (!array->view(object.ptr(), what, name.c_str(), out)) throw py::error_already_set();
}

py::bytes pack(const std::string& contract, const std::string& packing, py::object weight, const py::dict& attrs) {
  const Attributes attributes(attrs);
  ArrayView array;
  mrt_tensor tensor{};
  view(&array, weight, "weight of", contract, &tensor);
  size_t bytes = 0;
  check(mrt_kernel_packed_bytes(contract.c_str(), packing.c_str(), &tensor, attributes.data(), attributes.size(),
                                &bytes));
  auto out = py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(bytes)));
  if (!out) throw py::error_already_set();
  void* data = PyBytes_AS_STRING(out.ptr());
  Released released;
  const mrt_status status =
      mrt_kernel_pack(contract.c_str(), packing.c_str(), &tensor, attributes.data(), attributes.size(), data, bytes);
  released.end();
  check(status);
  return out;
}

// `outputs` are arrays that the caller made; None among the inputs is an absent optional one.
void run(const std::string& contract, const py::object& isa, const py::list& inputs, const py::list& outputs,
         const py::dict& attrs, int threads) {
  const Attributes attributes(attrs);
  std::deque<ArrayView> views;
  std::vector<mrt_tensor> in, out;
  for (py::handle object : inputs) {
    mrt_tensor tensor{};
    tensor.ndim = -1;
    if (!object.is_none()) {
      views.emplace_back();
      view(&views.back(), object, "input of", contract, &tensor);
    }
    in.push_back(tensor);
  }
  for (py::handle object : outputs) {
    mrt_tensor tensor{};
    bool copy = false;
    views.emplace_back();
    if (!views.back().view_writable(object.ptr(), contract.c_str(), &tensor, &copy)) throw py::error_already_set();
    if (copy) {
      set_invalid("the outputs of kernel '%s' must be contiguous arrays", contract.c_str());
      throw py::error_already_set();
    }
    out.push_back(tensor);
  }
  const std::string isa_name = isa.is_none() ? "" : isa.cast<std::string>();
  Released released;
  const mrt_status status = mrt_kernel_run(contract.c_str(), isa_name.c_str(), in.data(), in.size(), out.data(),
                                           out.size(), attributes.data(), attributes.size(), threads);
  released.end();
  check(status);
}

}  // namespace

void define_kernels(py::module_& m) {
  m.def("kernels_json", [] { return std::string(mrt_kernels_json()); });
  m.def("kernel_pack", pack, py::arg("contract"), py::arg("packing"), py::arg("weight"), py::arg("attrs"));
  m.def("kernel_run", run, py::arg("contract"), py::arg("isa"), py::arg("inputs"), py::arg("outputs"), py::arg("attrs"),
        py::arg("threads"));
}

}  // namespace maas_rt_python
