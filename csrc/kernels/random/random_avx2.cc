// Random numbers, AVX2.
#include "kernels/random/generic.h"

namespace mrt {

const RandomKernel kRandom_avx2 = {
    {fill_uniform_f32, fill_uniform_f64, fill_normal_f32, fill_normal_f64, fill_bits_u64}};

}  // namespace mrt
