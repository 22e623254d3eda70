// Tiles of 6 x 16: 12 accumulators, two vectors of weights and one broadcast fill the 16 registers of AVX2.
#include "kernels/gemm/tile_generic.h"

namespace mrt {
extern const TileTable kTile_avx2 = {6,
                                     {nullptr, tile<F32x8, 1, 4, 8>, tile<F32x8, 2, 2, 4>, tile<F32x8, 3, 2, 2>,
                                      tile<F32x8, 4, 1, 2>, tile<F32x8, 5, 1, 2>, tile<F32x8, 6, 1, 2>},
                                     Blocking(),
                                     Blocking()};
}  // namespace mrt
