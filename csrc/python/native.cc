// maas_rt._native: the C API as a Python module. Uses maas_rt.h and nothing else of the library.
#include "binding.h"

PYBIND11_MODULE(_bound, m) {
  using namespace maas_rt_python;
  m.doc() = "Binding of libmaas_rt; maas_rt is the public face.";
  m.def("version", [] { return std::string(mrt_version()); });
  m.def("cpu_count", mrt_cpu_count);
  m.def("cpu_isa", [] { return std::string(mrt_cpu_isa()); });
  m.def("machine_rates", [](int threads) {
    double gflops = 0, gbps = 0;
    maas_rt_python::check(mrt_machine_rates(threads, &gflops, &gbps));
    return std::make_pair(gflops, gbps);
  });
  m.def("cpu_level", [] { return std::string(mrt_cpu_level()); });
  define_program(m);
  define_runner(m);
  define_kernels(m);
  define_json(m);
  define_prepared(m);
  define_messages(m);
  define_counters(m);
}

// What Python calls. pybind11 waits for the GIL of the main interpreter and would do so for ever in another one.
extern "C" PYBIND11_EXPORT PyObject* PyInit__native() {
  if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
    PyErr_SetString(
        PyExc_ImportError,
        "maas_rt runs in Python's main interpreter, and this is a sub-interpreter: use threads or processes "
        "(under mod_wsgi, WSGIApplicationGroup %{GLOBAL})");
    return nullptr;
  }
  return PyInit__bound();
}
