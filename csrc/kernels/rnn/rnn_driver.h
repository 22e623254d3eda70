// What recurrent layers share: attributes, shapes, packing, and the walk over time.
#pragma once

#include "kernels/rnn/rnn_kernels.h"

namespace mrt {

struct RnnParams {
  const RnnKernel* kernel;
  const QTileTable* tiles;  // of weights of bytes
  const DynamicQuantizeKernel* quantize;
  int64_t hidden, reset_after;
  int32_t direction;  // forward, reverse, bidirectional
  int32_t torch_order;
};

// The positions of the optional inputs and the number of gates are all that tells the two apart.
struct RnnContract {
  const char* name;
  int64_t gates;
  int h0, c0, lengths, inputs;  // c0 -1: there is no cell state
  const char* orders[3];        // of the gates: ONNX's, torch's
  int w_scale;                  // not 0: weights are bytes; w_scale, r_scale, and w_zero? and r_zero? follow each other
};

extern const char* const kRnnPackings[];
extern const char* const kRnnBytePackings[];

Status rnn_prepare(const RnnContract& c, const Attrs& attrs, Isa isa, RnnParams* p);
Status rnn_check(const RnnContract& c, const RnnParams& p, const Tensor* in, int n_in, const Tensor* out, int n_out);
size_t rnn_scratch(const RnnContract& c, const RnnParams& p, const Tensor* in, int n_in, const Tensor* out, int n_out,
                   int32_t threads);
int32_t rnn_run(const RnnContract& c, const RnnParams& p, const Tensor* in, int n_in, const Tensor* out, int n_out,
                KernelContext& ctx);
double rnn_flops(const RnnContract& c, const RnnParams& p, const Tensor* in, const Tensor* out);

Status rnn_packed_bytes(const RnnContract& c, const char* packing, const Tensor& weight, size_t* out);
Status rnn_pack(const RnnContract& c, const char* packing, const Tensor& weight, void* out);

}  // namespace mrt
