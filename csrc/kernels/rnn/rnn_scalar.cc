// lstm_f32 and gru_f32, portable: four units by the compiler.
#include "kernels/rnn/generic.h"

namespace mrt {

const RnnKernel kRnnF32_scalar = {rnn_product<F32x4>, lstm_cell<F32x4>, gru_cell<F32x4>, gru_reset<F32x4>,
                                  add_sums<F32x4>};

}  // namespace mrt
