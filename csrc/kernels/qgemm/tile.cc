// Which kernels of 8-bit products this build has, best first.
#include "kernels/qgemm/tile.h"

#include "kernels/checks.h"

namespace mrt {

const QTileTable* q_tile_table(Isa isa) {
  static const QTileTable* const tables[] = {
#if defined(MRT_KERNELS_AVX512)
      &kQTileAvx512,
#endif
#if defined(MRT_KERNELS_AVX2)
      &kQTileAvx2,
#endif
      &kQTileScalar, nullptr};
  return kernel_of(tables, isa);
}

}  // namespace mrt
