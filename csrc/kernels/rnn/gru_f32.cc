// gru_f32: a gated recurrent layer over all time steps (K. Cho et al., arXiv:1406.1078).
//
// x [S, B, I], w (packed [dirs, 3H, I]), r (packed [dirs, 3H, H]), bias? [dirs, 6H], h0? [dirs, B, H], lengths? int32
// [B] -> y [S, B, dirs * H], hn [dirs, B, H]. Attributes hidden, direction, gates zrh (ONNX) or rzn (torch),
// linear_before_reset [1]: the reset gate multiplies R h + b instead of h. Lengths as in lstm_f32.
#include "kernels/rnn/rnn_driver.h"

namespace mrt {
namespace {

constexpr RnnContract kContract = {"gru_f32", 3, 4, -1, 5, 6, {"zrh", "rzn", nullptr}, 0};

const char* const kNames[] = {
#define MRT_KERNEL(isa) "gru_f32_" #isa,
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
  return of(params).kernel == nullptr ? "gru_f32_reference" : of(params).kernel->gru_name;
}

double flops(const void* params, const Tensor* in, int, const Tensor* out, int) {
  return rnn_flops(kContract, of(params), in, out);
}

}  // namespace

extern const Operator kGruF32Operator;
const Operator kGruF32Operator = {kContract.name, kRnnPackings, kNames,      sizeof(RnnParams), prepare,
                                  check,          scratch,      run,         packed_bytes,      pack,
                                  kernel_name,    flops,        {3, 6, 1, 2}};

}  // namespace mrt
