// The list of all operator contracts of this build: one line each, sorted by contract name.
#include <cstring>

#include "kernels/kernel.h"

namespace mrt {

extern const Operator kAttentionF32Operator;
extern const Operator kConcatOperator;
extern const Operator kConv2dF32Operator;
extern const Operator kConv2dU8S8Operator;
extern const Operator kConv2dWinogradF32Operator;
extern const Operator kConvTranspose2dF32Operator;
extern const Operator kDepthwiseConv2dF32Operator;
extern const Operator kDepthwiseConv2dU8S8Operator;
extern const Operator kDynamicQuantizeU8Operator;
extern const Operator kGatherOperator;
extern const Operator kGemmF32Operator;
extern const Operator kGemmF32QOperator;
extern const Operator kGemmU8S8Operator;
extern const Operator kGlobalAvgPoolF32Operator;
extern const Operator kGruF32Operator;
extern const Operator kLayerNormF32Operator;
extern const Operator kLookupOperator;
extern const Operator kLstmF32Operator;
extern const Operator kLstmU8S8Operator;
extern const Operator kMatmulF32Operator;
extern const Operator kMatmulU8Operator;
extern const Operator kMaxPool2dU8Operator;
extern const Operator kPadOperator;
extern const Operator kPool2dF32Operator;
extern const Operator kQkvAttentionF32Operator;
extern const Operator kRandomBitsU64Operator;
extern const Operator kRandomNormalF32Operator;
extern const Operator kRandomNormalF64Operator;
extern const Operator kRandomUniformF32Operator;
extern const Operator kRandomUniformF64Operator;
extern const Operator kResize2dF32Operator;
extern const Operator kRmsNormF32Operator;
extern const Operator kSliceOperator;
extern const Operator kSoftmaxF32Operator;
extern const Operator kTopKOperator;
extern const Operator kTransposeOperator;

namespace {

const Operator* const kOperators[] = {
    &kAttentionF32Operator,
    &kConcatOperator,
    &kConv2dF32Operator,
    &kConv2dU8S8Operator,
    &kConv2dWinogradF32Operator,
    &kConvTranspose2dF32Operator,
    &kDepthwiseConv2dF32Operator,
    &kDepthwiseConv2dU8S8Operator,
    &kDynamicQuantizeU8Operator,
    &kGatherOperator,
    &kGemmF32Operator,
    &kGemmF32QOperator,
    &kGemmU8S8Operator,
    &kGlobalAvgPoolF32Operator,
    &kGruF32Operator,
    &kLayerNormF32Operator,
    &kLookupOperator,
    &kLstmF32Operator,
    &kLstmU8S8Operator,
    &kMatmulF32Operator,
    &kMatmulU8Operator,
    &kMaxPool2dU8Operator,
    &kPadOperator,
    &kPool2dF32Operator,
    &kQkvAttentionF32Operator,
    &kRandomBitsU64Operator,
    &kRandomNormalF32Operator,
    &kRandomNormalF64Operator,
    &kRandomUniformF32Operator,
    &kRandomUniformF64Operator,
    &kResize2dF32Operator,
    &kRmsNormF32Operator,
    &kSliceOperator,
    &kSoftmaxF32Operator,
    &kTopKOperator,
    &kTransposeOperator,
};
constexpr size_t kCount = sizeof(kOperators) / sizeof(kOperators[0]);

}  // namespace

const Operator* const* operators(size_t* count) {
  *count = kCount;
  return kOperators;
}

const Operator* find_operator(const char* contract) {
  for (size_t i = 0; i < kCount; ++i)
    if (std::strcmp(kOperators[i]->contract, contract) == 0) return kOperators[i];
  return nullptr;
}

Status check_counts(const Operator& op, size_t n_in, size_t n_out) {
  const auto fits = [&](const char* kind, size_t n, int32_t lo, int32_t hi) {
    if (n >= static_cast<size_t>(lo) && n <= static_cast<size_t>(hi)) return Status();
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: %zu %s, expected %d to %d", op.contract, n, kind, lo, hi);
  };
  MRT_TRY(fits("inputs", n_in, op.counts.min_in, op.counts.max_in));
  return fits("outputs", n_out, op.counts.min_out, op.counts.max_out);
}

}  // namespace mrt
