#include "kernels/gemmq/packing.h"

#include <algorithm>

#include "kernels/gemm/dense.h"

namespace mrt {

Status gemmq_pack(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out) {
  DenseWeight p;
  int64_t bits = 0;
  MRT_TRY(decode_dense(weight, attrs, &p));
  MRT_TRY(attr_int(attrs, "bits", &bits));
  *bytes = gemmq_packed_bytes(p.k, p.n, bits);
  if (out == nullptr) return Status();
  const int8_t* const w = weight.as<const int8_t>();
  uint8_t* const to = static_cast<uint8_t*>(out);
  std::fill(to, to + *bytes, bits == 8 ? uint8_t{0} : uint8_t{0x88});
  for (int64_t j = 0; j < p.n; ++j) {
    uint8_t* const column = to + j / kPanel * gemmq_panel_bytes(p.k, bits) + j % kPanel;
    for (int64_t k = 0; k < p.k; ++k) {
      const int q = w[k * p.stride_k + j * p.stride_n];
      if (bits == 8) {
        column[k * kPanel] = static_cast<uint8_t>(q);
        continue;
      }
      if (q < -8 || q > 7) {
        return fail(MRT_ERROR_INVALID_ARGUMENT, "gemm_f32q: a weight is %d, which 4 bits do not hold", q);
      }
      uint8_t& both = column[k / 2 * kPanel];
      const int shift = static_cast<int>(k % 2) * 4;
      both = static_cast<uint8_t>((both & ~(15 << shift)) | (q + 8) << shift);
    }
  }
  return Status();
}

}  // namespace mrt
