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

// What of a contract tells recurrent layers apart: the positions of its optional inputs and the number of gates.
struct RnnContract {
  const char* name;
  const char* packing;
  int64_t gates;
  int h0, c0, lengths;  // c0 -1: there is no cell state
  int w_scale;          // not -1: weights are bytes; w_scale, r_scale, and w_zero? and r_zero? follow each other

  constexpr explicit RnnContract(const Contract& c)
      : name(c.name),
        packing(c.packings),
        gates(c.input_of("c0") < 0 ? 3 : 4),
        h0(c.input_of("h0")),
        c0(c.input_of("c0")),
        lengths(c.input_of("lengths")),
        w_scale(c.input_of("w_scale")) {}
  constexpr bool in_bytes() const { return w_scale >= 0; }
};

Status rnn_prepare(const RnnContract& c, const Attrs& attrs, Isa isa, RnnParams* p);
Status rnn_check(const RnnContract& c, const RnnParams& p, const Tensor* in, int n_in, const Tensor* out, int n_out);
size_t rnn_scratch(const RnnContract& c, const RnnParams& p, const Tensor* in, int n_in, const Tensor* out, int n_out,
                   int32_t threads);
int32_t rnn_run(const RnnContract& c, const RnnParams& p, const Tensor* in, int n_in, const Tensor* out, int n_out,
                KernelContext& ctx);
double rnn_flops(const RnnContract& c, const RnnParams& p, const Tensor* in);

// Of all directions, -1 where that cannot be addressed.
int64_t rnn_packed_bytes(const RnnContract& c, int64_t dirs, int64_t rows, int64_t k);
Status rnn_pack(const RnnContract& c, const Tensor& weight, int64_t* bytes, void* out);

}  // namespace mrt
