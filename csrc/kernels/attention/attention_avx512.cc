// attention_f32 and qkv_attention_f32, AVX-512: six rows by 16 columns.
#include "kernels/attention/pack_k.h"

namespace mrt {

const AttentionKernel kAttentionF32_avx512 = {PanelRows<F32x16>::value, Narrow<F32x16>::type::width,
                                              attention_tile<F32x16>,   pack_k<F32x8>,
                                              attention_pack_v<F32x16>, attention_finish<F32x16>};

}  // namespace mrt
