// Tiles of 4 x 16 by sdot.
#include "kernels/qgemm/dotprod.h"

namespace mrt {
namespace {

void finish(const QFinishCall& c) { kQFinish_neon(c, kEpilogue_neon); }

}  // namespace

extern const QTileTable kQTile_dotprod = {
    Dotprod::kRows,
    true,
    {nullptr, tile<Dotprod, 1>, tile<Dotprod, 2>, tile<Dotprod, 3>, tile<Dotprod, 4>},
    finish,
    q_row_sum,
    row_of_panels<Dotprod>,
    nullptr,
    0,
    nullptr,
    {}};

}  // namespace mrt
