// attention_f32 and qkv_attention_f32, AVX2 and FMA: six rows by 16 columns.
#include "kernels/attention/pack_k.h"

namespace mrt {

const AttentionKernel kAttentionF32_avx2 = {PanelRows<F32x8>::value, Narrow<F32x8>::type::width,
                                            attention_tile<F32x8>,   pack_k<F32x8>,
                                            attention_pack_v<F32x8>, attention_finish<F32x8>};

}  // namespace mrt
