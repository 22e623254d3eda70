// attention_f32 and qkv_attention_f32, portable: four lanes by the compiler.
#include "kernels/attention/generic.h"

namespace mrt {
namespace {

void pack_k(const float* k, int64_t stride, int64_t keys, int64_t d, float scale, float* out) {
  for (int64_t n = 0; n < keys; n += kPanelWidth, out += d * kPanelWidth) {
    pack_k_edge(k + n * stride, stride, keys - n < kPanelWidth ? keys - n : kPanelWidth, 0, d, scale, out);
  }
}

}  // namespace

const AttentionKernel kAttentionF32_scalar = {PanelRows<F32x4>::value, Narrow<F32x4>::type::width,
                                              attention_tile<F32x4>,   pack_k,
                                              attention_pack_v<F32x4>, attention_finish<F32x4>};

}  // namespace mrt
