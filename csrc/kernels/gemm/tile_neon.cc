// Tiles of 6 x 16 by lanes: 24 accumulators, six registers of A and two of weights fill the 32 registers of AArch64.
#include "kernels/gemm/tile_generic.h"

namespace mrt {
extern const TileTable kTile_neon = {6,
                                     {nullptr, tile<F32x4n, 1, 4, 4>, tile<F32x4n, 2, 2, 4>, tile<F32x4n, 3, 1, 2>,
                                      tile<F32x4n, 4, 1, 2>, tile<F32x4n, 5, 1, 1>, tile<F32x4n, 6, 1, 1>},
                                     Blocking(),
                                     Blocking()};
}  // namespace mrt
