// Recurrent layers over all time steps: lstm_f32 (S. Hochreiter and J. Schmidhuber, 1997) and gru_f32 (K. Cho et al.,
// arXiv:1406.1078), and lstm_u8s8 and gru_u8s8 with weights of 8 bits.
//
// x [S, B, I], w (packed [dirs, gates * H, I]), r (packed [dirs, gates * H, H]), bias? [dirs, 2 * gates * H], h0? and,
// of an LSTM, c0? [dirs, B, H], lengths? int32 [B] -> y [S, B, dirs * H], hn and, of an LSTM, cn [dirs, B, H]. Gates
// come in ONNX's order or in torch's. A sequence stops at its length: y is 0 behind it, and its reverse direction
// starts there. A length outside of [0, S] is MRT_ERROR_RUN. With linear_before_reset the reset gate of a GRU
// multiplies R h + b instead of h.
//
// lstm_u8s8 is what ONNX Runtime's DynamicQuantizeLSTM computes: x is quantized to uint8 by its own range once, h of
// all sequences anew in each step; the sums are exact. w_scale and r_scale [dirs, 4H], w_zero? and r_zero? [dirs, 4H].
// gru_u8s8 is the same of a GRU, with [dirs, 3H]; what a reset gate leaves of h is quantized by the range of h.
#include "kernels/rnn/rnn_driver.h"

namespace mrt {
namespace {

constexpr Operand kLstmInputs[] = {{"x", kF32, 3},
                                   {"w", kF32, 3, kPacked},
                                   {"r", kF32, 3, kPacked},
                                   {"bias", kF32, 2, kOptional},
                                   {"h0", kF32, 3, kOptional},
                                   {"c0", kF32, 3, kOptional},
                                   {"lengths", kS32, 1, kOptional}};
constexpr Operand kByteInputs[] = {{"x", kF32, 3},
                                   {"w", kS8, 3, kPacked},
                                   {"r", kS8, 3, kPacked},
                                   {"bias", kF32, 2, kOptional},
                                   {"h0", kF32, 3, kOptional},
                                   {"c0", kF32, 3, kOptional},
                                   {"lengths", kS32, 1, kOptional},
                                   {"w_scale", kF32, 2},
                                   {"r_scale", kF32, 2},
                                   {"w_zero", kS8, 2, kOptional},
                                   {"r_zero", kS8, 2, kOptional}};
constexpr Operand kGruInputs[] = {{"x", kF32, 3},
                                  {"w", kF32, 3, kPacked},
                                  {"r", kF32, 3, kPacked},
                                  {"bias", kF32, 2, kOptional},
                                  {"h0", kF32, 3, kOptional},
                                  {"lengths", kS32, 1, kOptional}};
constexpr Operand kGruByteInputs[] = {{"x", kF32, 3},
                                      {"w", kS8, 3, kPacked},
                                      {"r", kS8, 3, kPacked},
                                      {"bias", kF32, 2, kOptional},
                                      {"h0", kF32, 3, kOptional},
                                      {"lengths", kS32, 1, kOptional},
                                      {"w_scale", kF32, 2},
                                      {"r_scale", kF32, 2},
                                      {"w_zero", kS8, 2, kOptional},
                                      {"r_zero", kS8, 2, kOptional}};
constexpr Operand kLstmOutputs[] = {{"y", kF32, 3}, {"hn", kF32, 3, kOptional}, {"cn", kF32, 3, kOptional}};
constexpr Operand kGruOutputs[] = {{"y", kF32, 3}, {"hn", kF32, 3, kOptional}};
constexpr Attribute kLayer[] = {integer("hidden", 1, 1 << 20), choice("direction", "forward reverse bidirectional")};
constexpr Attribute kLstmAttributes[] = {choice("gates", "iofc ifgo")};
constexpr Attribute kGruAttributes[] = {choice("gates", "zrh rzn"), integer("linear_before_reset", 0, 1, 1)};

constexpr Contract kLstm = {"lstm_f32", "rnn_f32_nr16_v1", kLstmInputs, kLstmOutputs, kLayer, kLstmAttributes};
constexpr Contract kLstmBytes = {"lstm_u8s8", "rnn_u8s8_nr16_v1", kByteInputs, kLstmOutputs, kLayer, kLstmAttributes};
constexpr Contract kGru = {"gru_f32", "rnn_f32_nr16_v1", kGruInputs, kGruOutputs, kLayer, kGruAttributes};
constexpr Contract kGruBytes = {"gru_u8s8", "rnn_u8s8_nr16_v1", kGruByteInputs, kGruOutputs, kLayer, kGruAttributes};

// What a contract makes of the shared driver.
template <const Contract& c>
struct Layer {
  static constexpr RnnContract kRnn = RnnContract(c);

  static const RnnParams& of(const void* params) { return *static_cast<const RnnParams*>(params); }
  static Status prepare(const Attrs& attrs, Isa isa, void* params) {
    return rnn_prepare(kRnn, attrs, isa, static_cast<RnnParams*>(params));
  }
  static Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out) {
    return rnn_check(kRnn, of(params), in, n_in, out, n_out);
  }
  static int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out, KernelContext& ctx) {
    return rnn_run(kRnn, of(params), in, n_in, out, n_out, ctx);
  }
  static size_t scratch(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out, int32_t threads) {
    return rnn_scratch(kRnn, of(params), in, n_in, out, n_out, threads);
  }
  static double flops(const void* params, const Tensor* in, int, const Tensor*, int) {
    return rnn_flops(kRnn, of(params), in);
  }
  static Status pack(const Tensor& weight, const Attrs&, int64_t* bytes, void* out) {
    return rnn_pack(kRnn, weight, bytes, out);
  }

  static constexpr Operator with(const Kernel* kernels) {
    return {&c, kernels, sizeof(RnnParams), prepare, check, run, scratch, flops, pack};
  }
};

}  // namespace

const Operator kOperator_lstm_f32 = Layer<kLstm>::with(kRnnF32.rows);
const Operator kOperator_lstm_u8s8 = Layer<kLstmBytes>::with(kRnnF32.rows);
const Operator kOperator_gru_f32 = Layer<kGru>::with(kRnnF32.rows);
const Operator kOperator_gru_u8s8 = Layer<kGruBytes>::with(kRnnF32.rows);

}  // namespace mrt
