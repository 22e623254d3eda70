// lstm_f32 and gru_f32, NEON: four units.
#include "kernels/rnn/generic.h"

namespace mrt {

const RnnKernel kRnnF32_neon = {rnn_product<F32x4n>, lstm_cell<F32x4n>, gru_cell<F32x4n>, gru_reset<F32x4n>,
                                add_sums<F32x4n>};

}  // namespace mrt
