// What attention_f32 and qkv_attention_f32 share: the walk over heads, queries and tiles of keys.
#pragma once

#include "kernels/attention/attention_kernels.h"

namespace mrt {

struct AttentionParams {
  const AttentionKernel* kernel;
  double scale;  // 0: 1 / sqrt(d)
  int64_t causal, safe;
  int32_t bhsd;
};

extern const Attribute kAttentionAttributes[3];
Status attention_prepare(const Attrs& attrs, Isa isa, AttentionParams* p);
// Fills in scale, causal and safe of the problem.
void attention_set(const AttentionParams& p, AttentionProblem* problem);
// Checks that mask can be broadcast to [batch, heads, sq, sk] and fills in its pointer and strides.
Status attention_mask(const char* contract, const Tensor& mask, AttentionProblem* problem);

size_t attention_scratch(const AttentionParams& p, const AttentionProblem& problem, int32_t threads);
int32_t attention_run(const AttentionParams& p, const AttentionProblem& problem, KernelContext& ctx);
double attention_flops(const AttentionProblem& problem);

}  // namespace mrt
