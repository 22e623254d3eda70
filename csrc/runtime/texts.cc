#include "runtime/texts.h"

namespace mrt {

std::string shape_text(const int64_t* shape, int32_t ndim) {
  std::string text = "[";
  for (int32_t d = 0; d < ndim; ++d) text += (d ? ", " : "") + std::to_string(shape[d]);
  return text + "]";
}

std::string declared_text(const ValueText& value) {
  std::string text = "[";
  for (size_t d = 0; d < value.dims.size(); ++d)
    text += (d ? ", " : "") + (value.dims[d].extent >= 0 ? std::to_string(value.dims[d].extent) : value.texts[d]);
  return text + "]";
}

}  // namespace mrt
