// lstm_f32 and gru_f32, AVX2 and FMA: eight units.
#include "kernels/rnn/generic.h"

namespace mrt {

const RnnKernel kRnnF32_avx2 = {rnn_product<F32x8>, lstm_cell<F32x8>, gru_cell<F32x8>, gru_reset<F32x8>,
                                add_sums<F32x8>};

}  // namespace mrt
