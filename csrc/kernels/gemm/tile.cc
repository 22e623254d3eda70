// Which tile kernels this build has, best first.
#include "kernels/gemm/tile.h"

#include "kernels/checks.h"

namespace mrt {

const TileTable* tile_table(Isa isa) {
  static const TileTable* const tables[] = {
#if defined(MRT_KERNELS_AVX512)
      &kTileAvx512,
#endif
#if defined(MRT_KERNELS_AVX2)
      &kTileAvx2,
#endif
      &kTileScalar, nullptr};
  return kernel_of(tables, isa);
}

}  // namespace mrt
