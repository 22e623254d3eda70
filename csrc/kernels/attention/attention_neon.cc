// attention_f32 and qkv_attention_f32, NEON: six rows by 16 columns.
#include "kernels/attention/pack_k.h"

namespace mrt {

const AttentionKernel kAttentionF32_neon = {PanelRows<F32x4n>::value, Narrow<F32x4n>::type::width,
                                            attention_tile<F32x4n>,   pack_k<F32x4n>,
                                            attention_pack_v<F32x4n>, attention_finish<F32x4n>};

}  // namespace mrt
