// Packing of recurrent weights: rnn_f32_nr16_v1.
//
// [dirs, gates * hidden, k] becomes, for each direction, panels of 16 rows: [ceil(rows / 16)][k][16], rows that do not
// exist as zeros. A step's products then read the weights front to back. rnn_u8s8_nr16_v1 is the same of int8 in panels
// of gemm_u8s8_nr16_v2.
#include <cstring>

#include "kernels/rnn/rnn_driver.h"

namespace mrt {

int64_t rnn_packed_bytes(const RnnContract& c, int64_t dirs, int64_t rows, int64_t k) {
  const int64_t width = (rows + kRnnPanel - 1) / kRnnPanel * kRnnPanel;
  return c.in_bytes() ? checked_mul(q_packed_bytes(1, k, rows), dirs) : checked_mul(checked_mul(width, k), dirs * 4);
}

Status rnn_pack(const RnnContract& c, const Tensor& weight, int64_t* bytes, void* out) {
  if (weight.shape[0] < 1 || weight.shape[0] > 2 || weight.shape[1] == 0 || weight.shape[1] % c.gates != 0) {
    return fail(MRT_ERROR_SHAPE, "%s: the weight has shape [%lld, %lld, ...], expected [1 or 2, %lld * hidden, ...]",
                c.name, static_cast<long long>(weight.shape[0]), static_cast<long long>(weight.shape[1]),
                static_cast<long long>(c.gates));
  }
  const int64_t dirs = weight.shape[0], rows = weight.shape[1], k = weight.shape[2];
  if (c.in_bytes()) MRT_TRY(q_check_depth(c.name, 1, k));
  *bytes = rnn_packed_bytes(c, dirs, rows, k);
  if (out == nullptr) return Status();
  const int64_t width = (rows + kRnnPanel - 1) / kRnnPanel * kRnnPanel;
  if (c.in_bytes()) {
    const QPanelLayout layout = q_panel_layout(1, k);
    for (int64_t d = 0; d < dirs; ++d) {
      const QSource source{weight.as<const int8_t>() + d * rows * k, k, rows, 255};
      q_pack_panels(
          source, layout, [](int64_t, int64_t i) { return i; },
          static_cast<char*>(out) + d * q_packed_bytes(1, k, rows));
    }
    return Status();
  }
  const float* from = weight.as<float>();
  float* to = static_cast<float*>(out);
  if (*bytes > 0) std::memset(to, 0, static_cast<size_t>(*bytes));
  for (int64_t d = 0; d < dirs; ++d) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < k; ++i) {
        to[d * width * k + RnnProblem::packed_at(row, i, k)] = from[(d * rows + row) * k + i];
      }
    }
  }
  return Status();
}

}  // namespace mrt
