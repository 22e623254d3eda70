// Which tile kernels this build has, best first.
#include "kernels/gemm/tile.h"

#include "kernels/checks.h"

namespace mrt {

const char* const kTileKernels[] = {
#define MRT_KERNEL(isa, name) name,
#include "kernels/gemm/kernels.inc"
#undef MRT_KERNEL
    nullptr};

const TileTable* tile_table(Isa isa) {
  static const TileTable* const tables[] = {
#define MRT_KERNEL(isa, name) &kTile_##isa,
#include "kernels/gemm/kernels.inc"
#undef MRT_KERNEL
      nullptr};
  return kernel_of(tables, isa);
}

}  // namespace mrt
