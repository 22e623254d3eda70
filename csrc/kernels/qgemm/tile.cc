// Which kernels of 8-bit products this build has, best first.
#include "kernels/qgemm/tile.h"

#include "kernels/checks.h"

namespace mrt {

const char* const kQTileKernels[] = {
#define MRT_KERNEL(isa, name) name,
#include "kernels/qgemm/kernels.inc"
#undef MRT_KERNEL
    nullptr};

const QTileTable* q_tile_table(Isa isa) {
  static const QTileTable* const tables[] = {
#define MRT_KERNEL(isa, name) &kQTile_##isa,
#include "kernels/qgemm/kernels.inc"
#undef MRT_KERNEL
      nullptr};
  return kernel_of(tables, isa);
}

}  // namespace mrt
