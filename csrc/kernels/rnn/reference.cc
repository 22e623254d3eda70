// LSTM and GRU as the formulas say them, in double precision, on the packed weights. Products of bytes are whole
// numbers, scaled in float32.
#include <cmath>

#include "kernels/rnn/rnn_kernels.h"

namespace mrt {
namespace {

double sigma(double x) { return 1 / (1 + std::exp(-x)); }

// One sequence in one direction: position of everything that belongs to it.
struct Lane {
  const RnnProblem& p;
  int64_t d, b;
  ByteScale h_scale;  // of weights of bytes
  float* h() const { return p.hn + (d * p.batch + b) * p.hidden; }
  float* c() const { return p.cn + (d * p.batch + b) * p.hidden; }
  // Row `row` of weights [*, k] times v.
  template <typename F>
  double product(const RnnWeights& w, int64_t row, int64_t k, const ByteScale& s, F&& v) const {
    double sum = 0;
    if (w.bytes == nullptr) {
      const float* panels = w.panels + d * p.width() * k;
      for (int64_t i = 0; i < k; ++i) sum += static_cast<double>(panels[p.packed_at(row, i, k)]) * v(i);
      return sum;
    }
    const QPanelLayout layout = q_panel_layout(1, k);
    const char* packed = w.bytes + d * (p.width() / kRnnPanel) * layout.bytes;
    const int64_t at = d * p.gates * p.hidden + row, zero = w.zeros == nullptr ? 0 : w.zeros[at];
    int64_t whole = 0;
    for (int64_t i = 0; i < k; ++i) {
      const float x = static_cast<float>(v(i));
      uint8_t q = 0;
      quantize_reference(&x, 1, byte_divisor(s), s.zero, &q);
      whole += (q - int64_t{s.zero}) * (q_packed_weight(packed, layout, 0, i, row) - zero);
    }
    return static_cast<float>(whole) * (w.scale[at] * s.scale);
  }
  // Row `row` of W x_t.
  double input(int64_t t, int64_t row) const {
    const float* x = p.x + (t * p.batch + b) * p.inputs;
    return product(p.w, row, p.inputs, p.x_scale, [&](int64_t i) { return static_cast<double>(x[i]); });
  }
  // Row `row` of R v.
  template <typename F>
  double recurrent(int64_t row, F&& v) const {
    return product(p.r, row, p.hidden, h_scale, v);
  }
  double bias(int64_t which, int64_t row) const {  // 0: of W, 1: of R
    return p.bias == nullptr ? 0.0 : p.bias[(d * 2 + which) * p.gates * p.hidden + row];
  }
};

// Walks every sequence in every direction, step by step; step(lane, t, out) writes the new h to out, [hidden].
template <typename F>
void walk(const RnnProblem& p, F&& step) {
  for (int64_t d = 0; d < p.dirs; ++d) {
    const int64_t state = p.batch * p.hidden;
    for (int64_t j = 0; j < state; ++j) {
      p.hn[d * state + j] = p.h0 == nullptr ? 0.0f : p.h0[d * state + j];
      if (p.gates == 4) p.cn[d * state + j] = p.c0 == nullptr ? 0.0f : p.c0[d * state + j];
    }
    for (int64_t i = 0; i < p.steps; ++i) {
      const int64_t t = p.backward(d) ? p.steps - 1 - i : i;
      const ByteScale h_scale = byte_scale(range_reference(p.hn + d * state, state));
      for (int64_t b = 0; b < p.batch; ++b) {
        const Lane lane{p, d, b, h_scale};
        float* out = p.y + (t * p.batch + b) * p.dirs * p.hidden + d * p.hidden;
        if (t < (p.lengths == nullptr ? p.steps : p.lengths[b])) {
          step(lane, t, out);
          for (int64_t j = 0; j < p.hidden; ++j) lane.h()[j] = out[j];
        } else {
          for (int64_t j = 0; j < p.hidden; ++j) out[j] = 0;
        }
      }
    }
  }
}

}  // namespace

// i, f, o = sigma(W x + R h + b), g = tanh(...), c' = f c + i g, h' = o tanh(c').
void lstm_reference(const RnnProblem& p) {
  const int64_t n = p.hidden;
  const int64_t f = p.torch_order ? 1 : 2, g = p.torch_order ? 2 : 3, o = p.torch_order ? 3 : 1;
  walk(p, [&](const Lane& lane, int64_t t, float* out) {
    const auto h = [&](int64_t i) { return static_cast<double>(lane.h()[i]); };
    const auto gate = [&](int64_t which, int64_t j) {
      const int64_t row = which * n + j;
      return lane.input(t, row) + lane.recurrent(row, h) + lane.bias(0, row) + lane.bias(1, row);
    };
    for (int64_t j = 0; j < n; ++j) {
      const double c = sigma(gate(f, j)) * lane.c()[j] + sigma(gate(0, j)) * std::tanh(gate(g, j));
      lane.c()[j] = static_cast<float>(c);
      out[j] = static_cast<float>(sigma(gate(o, j)) * std::tanh(c));
    }
  });
}

// z, r = sigma(W x + R h + b); n = tanh(W x + b_w + r (R h + b_r)), or tanh(W x + b_w + R (r h) + b_r);
// h' = (1 - z) n + z h.
void gru_reference(const RnnProblem& p) {
  const int64_t n = p.hidden, z = p.torch_order ? 1 : 0, r = p.torch_order ? 0 : 1;
  walk(p, [&](const Lane& lane, int64_t t, float* out) {
    const auto h = [&](int64_t i) { return static_cast<double>(lane.h()[i]); };
    const auto gate = [&](int64_t which, int64_t j) {
      const int64_t row = which * n + j;
      return sigma(lane.input(t, row) + lane.recurrent(row, h) + lane.bias(0, row) + lane.bias(1, row));
    };
    for (int64_t j = 0; j < n; ++j) {
      const int64_t row = 2 * n + j;
      double part;
      if (p.reset_after) {
        part = gate(r, j) * (lane.recurrent(row, h) + lane.bias(1, row));
      } else {
        part = lane.recurrent(row, [&](int64_t i) { return gate(r, i) * h(i); }) + lane.bias(1, row);
      }
      const double candidate = std::tanh(lane.input(t, row) + lane.bias(0, row) + part), update = gate(z, j);
      out[j] = static_cast<float>((1 - update) * candidate + update * h(j));
    }
  });
}

}  // namespace mrt
