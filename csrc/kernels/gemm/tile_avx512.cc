// Tiles of 8 x 16 with AVX-512: a row of weights is one register, and each of 8 sums takes its element of A from
// memory. (Twelve rows need more general registers than there are, and are slower.) The blockings are for Zen 4
// (1 MiB L2): with the next panel fetched in time its weights need not stay in L1, and a product of up to 2304 deep is
// 6 to 10 % faster in one stretch, whose rows are not copied and whose sums are not read again, than in two; a
// convolution of 3 x 3 is 1 to 3 % slower so.
#include "kernels/gemm/tile_generic.h"

namespace mrt {
extern const TileTable kTile_avx512 = {
    8,
    {nullptr, tile<F32x16, 1, 8, 8>, tile<F32x16, 2, 4, 4>, tile<F32x16, 3, 2, 2>, tile<F32x16, 4, 2, 2>,
     tile<F32x16, 5, 1, 1>, tile<F32x16, 6, 1, 1>, tile<F32x16, 7, 1, 1>, tile<F32x16, 8, 1, 1>},
    {1536, 384 << 10},
    {512, 512 << 10}};
}  // namespace mrt
