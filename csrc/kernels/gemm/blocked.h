// The loops around the tile kernel: a matrix product cut into blocks that fit the caches, and shared between threads.
#pragma once

#include <cstdint>

#include "kernels/epilogue/epilogue.h"
#include "kernels/gemm/tile.h"

namespace mrt {

extern const Attribute kBlockingHints[2];
Status decode_blocking(const Attrs& attrs, Blocking* out);

// What a tile is multiplied by where that is not floats yet.
struct PackedTile {
  const void* packed;     // Product::packed
  int64_t panel, panels;  // with unpack_each two panels side by side may share a tile of more than 16 columns
  int64_t row;            // of the panel, from which on
  bool first;             // of the tiles of a block, which share the scratch
  float* scratch;         // tile.kc + 2 times 16 floats
};

// y [m, n] = epilogue(A [m, taps * kc] * W), W packed in panels of 16 columns, [ceil(n / 16)][taps * kc][16], or where
// it lies, with a stride, if n is a multiple of 16.
struct Product {
  const TileTable* table;
  const EpilogueTable* epilogue_table;
  const Epilogue* epilogue;
  Blocking blocking;
  int64_t m, n, taps, kc;
  int64_t groups;   // products side by side, each with its n columns of y and its panels; 0: one
  int64_t group_a;  // floats from the rows of A of one group to the next's
  // The pointers to the rows [m0, m0 + rows) of A, as TileCall wants them: out[tap * rows + i]. Either `rows_of` fills
  // them in, or, where it is null, row i starts at a + i * lda and there is one tap.
  void (*rows_of)(const void* user, int64_t m0, int64_t rows, const float** out);
  const void* user;
  const float* zeros;  // where pointers to nothing but zeros point, all of them; or null
  const float* a;
  int64_t lda;
  int64_t row_bytes;  // of A that one row adds to the cache: less than it reads where rows overlap; 0: taps * kc * 4
  const float* w;
  int64_t ldw;         // floats from one row of a panel to the next; 0: packed panels, 16
  int64_t panel_step;  // floats from one panel to the next, where ldw is not 0
  // Weights that are not floats yet, in w's place: multiplies one tile by them, `rows` high, as TileCall says. It
  // leaves them in the scratch as floats, [kc][16], for the other tiles, or else is asked for each of them,
  // `unpack_each`.
  void (*unpack)(const PackedTile& packed, const TileCall& tile, int64_t rows);
  const void* packed;
  bool unpack_each;
  float* c;
  int64_t ldc;
  const float* bias;      // null or [n]
  const float* residual;  // null or like c
  int64_t ldr;
  Watch* watch;  // null, or what may end the run: the product is then left between two panels
};

// Bytes of scratch that each of the workers of run_product (or the caller of product_block) needs; `unpacks`: there is
// a Product::unpack.
size_t product_scratch(int32_t mr, int64_t taps, int64_t kc, const Blocking& blocking = {}, bool unpacks = false);

// Rows [m0, m1) and panels [p0, p1), counted through all groups, on the caller's thread. Within parallel_items, or who
// calls it asks p.watch afterwards.
void product_block(const Product& p, int64_t m0, int64_t m1, int64_t p0, int64_t p1, void* scratch);

// All of it, on at most ctx.threads threads; scratch holds product_scratch for each of them.
void run_product(const Product& p, KernelContext& ctx, void* scratch);

inline int64_t panels_of(int64_t n) { return n / kPanel + (n % kPanel != 0); }

}  // namespace mrt
