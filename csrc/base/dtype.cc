#include <string>

#include "base/tensor.h"

namespace mrt {

std::string name_of(DType t) {
  constexpr struct {
    uint8_t code, bits;
    const char* name;
  } kNamed[] = {{MRT_BOOL, 8, "bool"},
                {MRT_FLOAT8_E4M3FN, 8, "float8_e4m3fn"},
                {MRT_FLOAT8_E4M3FNUZ, 8, "float8_e4m3fnuz"},
                {MRT_FLOAT8_E5M2, 8, "float8_e5m2"},
                {MRT_FLOAT8_E5M2FNUZ, 8, "float8_e5m2fnuz"},
                {MRT_FLOAT8_E8M0FNU, 8, "float8_e8m0fnu"},
                {MRT_FLOAT4_E2M1FN, 4, "float4_e2m1fn"}};
  for (const auto& n : kNamed)
    if (n.code == t.code && n.bits == t.bits) return n.name;
  const std::string bits = std::to_string(t.bits);
  switch (t.code) {
    case MRT_INT:
      return "int" + bits;
    case MRT_UINT:
      return "uint" + bits;
    case MRT_FLOAT:
      return "float" + bits;
    case MRT_BFLOAT:
      return "bfloat" + bits;
    case MRT_BOOL:
      return "bool" + bits;
    case MRT_COMPLEX:
      return "complex" + bits;
    default:
      return "dtype of code and bits " + std::to_string(t.code) + ", " + bits;
  }
}

}  // namespace mrt
