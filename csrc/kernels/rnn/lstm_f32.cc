// lstm_f32: a long short-term memory layer over all time steps (S. Hochreiter and J. Schmidhuber, 1997).
//
// x [S, B, I], w (packed [dirs, 4H, I]), r (packed [dirs, 4H, H]), bias? [dirs, 8H], h0? and c0? [dirs, B, H],
// lengths? int32 [B] -> y [S, B, dirs * H], hn and cn [dirs, B, H]. Attributes hidden, direction forward/reverse/
// bidirectional, gates iofc (ONNX) or ifgo (torch). A sequence stops at its length: y is 0 behind it, and its reverse
// direction starts there. A length outside of [0, S] is MRT_ERROR_RUN.
#include "kernels/rnn/rnn_driver.h"

namespace mrt {
namespace {

constexpr RnnContract kContract = {"lstm_f32", 4, 4, 5, 6, 7, {"iofc", "ifgo", nullptr}, 0};

const char* const kNames[] = {
#define MRT_KERNEL(isa) "lstm_f32_" #isa,
#include "kernels/rnn/kernels.inc"
#undef MRT_KERNEL
    nullptr};

const RnnParams& of(const void* params) { return *static_cast<const RnnParams*>(params); }

Status prepare(const Attrs& attrs, Isa isa, void* params) {
  return rnn_prepare(kContract, attrs, isa, static_cast<RnnParams*>(params));
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out) {
  return rnn_check(kContract, of(params), in, n_in, out, n_out);
}

size_t scratch(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out, int32_t threads) {
  return rnn_scratch(kContract, of(params), in, n_in, out, n_out, threads);
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out, KernelContext& ctx) {
  return rnn_run(kContract, of(params), in, n_in, out, n_out, ctx);
}

Status packed_bytes(const char* packing, const Tensor& weight, const Attrs&, size_t* out) {
  return rnn_packed_bytes(kContract, packing, weight, out);
}

Status pack(const char* packing, const Tensor& weight, const Attrs&, void* out) {
  return rnn_pack(kContract, packing, weight, out);
}

const char* kernel_name(const void* params, const Tensor*, int, const Tensor*, int) {
  return of(params).kernel == nullptr ? "lstm_f32_reference" : of(params).kernel->lstm_name;
}

double flops(const void* params, const Tensor* in, int, const Tensor* out, int) {
  return rnn_flops(kContract, of(params), in, out);
}

}  // namespace

extern const Operator kLstmF32Operator;
const Operator kLstmF32Operator = {kContract.name, kRnnPackings, kNames,      sizeof(RnnParams), prepare,
                                   check,          scratch,      run,         packed_bytes,      pack,
                                   kernel_name,    flops,        {3, 7, 1, 3}};

}  // namespace mrt
