// Recurrent layers, AVX-512: sixteen units. Products of floats are those of AVX2, which read their weights as fast.
#include "kernels/rnn/generic.h"

namespace mrt {

const RnnKernel kRnnF32_avx512 = {rnn_product<F32x8>, lstm_cell<F32x16>, gru_cell<F32x16>, gru_reset<F32x16>,
                                  add_sums<F32x16>};

}  // namespace mrt
