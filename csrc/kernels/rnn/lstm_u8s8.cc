// lstm_u8s8: lstm_f32 with weights of 8 bits, as ONNX Runtime's DynamicQuantizeLSTM computes it: x is quantized to
// uint8 by its own range once, h of all sequences anew in each step; the sums are exact.
//
// Inputs as lstm_f32, w and r of int8, and behind lengths: w_scale and r_scale [dirs, 4H], w_zero? and r_zero? int8
// [dirs, 4H].
#include "kernels/rnn/rnn_driver.h"

namespace mrt {
namespace {

constexpr RnnContract kContract = {"lstm_u8s8", 4, 4, 5, 6, 11, {"iofc", "ifgo", nullptr}, 7};

const char* const kNames[] = {
#define MRT_KERNEL(isa) "lstm_u8s8_" #isa,
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
  return of(params).kernel == nullptr ? "lstm_u8s8_reference" : of(params).kernel->lstm_u8_name;
}

double flops(const void* params, const Tensor* in, int, const Tensor* out, int) {
  return rnn_flops(kContract, of(params), in, out);
}

}  // namespace

extern const Operator kLstmU8S8Operator;
const Operator kLstmU8S8Operator = {
    kContract.name, kRnnBytePackings, kNames, sizeof(RnnParams), prepare, check, scratch, run, packed_bytes,
    pack,           kernel_name,      flops,  {3, 11, 1, 3}};

}  // namespace mrt
