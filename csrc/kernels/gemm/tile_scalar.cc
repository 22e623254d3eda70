// Tiles of 3 x 16 with the baseline's vectors of four: 12 accumulators of 16 registers.
#include "kernels/gemm/tile_generic.h"

namespace mrt {
extern const TileTable kTile_scalar = {
    3,
    {nullptr, tile<F32x4, 1, 2, 4>, tile<F32x4, 2, 1, 2>, tile<F32x4, 3, 1, 2>, nullptr, nullptr, nullptr},
    Blocking(),
    Blocking()};
}  // namespace mrt
