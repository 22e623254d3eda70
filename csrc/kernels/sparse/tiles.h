// How products with sparse weights are cut, and the loops around multiply.h and qmultiply.h. Rows of a are taken a few
// vectors at a time, a tile, and transposed, a block of the depth after the other, so that it stays in L1, or near it,
// while all weights of the block meet it; sums wait in L2 for the next block, transposed as well. (Blocking as E.
// Elsen, M. Dukhan, T. Gale and K. Simonyan, "Fast Sparse ConvNets", 2020, whose activations have this layout from the
// start.)
#pragma once

#include "kernels/sparse/packing.h"

namespace mrt {

constexpr int64_t kSparsePlaces = 256;  // of a block of the depth: 32 KiB of 32 columns of four bytes, 64 KiB of 64
constexpr int64_t kSparseRows = 64;     // of a in an item: weights that were read once are multiplied by them all
constexpr int64_t kSparseChunks = 4;    // of an item, at most: 256 KiB of sums

// Rows of a, and the chunks [begin, end): an item, or one tile of it.
struct SparseTile {
  int64_t row, rows;
  int64_t begin, end;
};

// Items of m rows of a, in tiles of so many columns.
struct SparseItems {
  int64_t rows, chunks;  // of an item, at most
  int64_t down, across;
  SparseItems(const SparseLayout& l, int64_t m, int64_t columns, int64_t threads) {
    const int64_t all = l.chunks(), wanted = threads > 1 ? 4 * threads : 1;
    rows = kSparseRows;
    if (ceil_div(m, rows) * ceil_div(all, kSparseChunks) < wanted) rows = columns;
    down = ceil_div(m, rows);
    chunks = std::max<int64_t>(1, std::min(kSparseChunks, all * down / wanted));
    across = ceil_div(all, chunks);
  }
};

// Scratch of a worker: a block of a, then sums, then what a product wants for itself.
inline int64_t sparse_block_bytes(int64_t columns) { return kSparsePlaces * columns * 4; }
inline int64_t sparse_sum_bytes(const SparseLayout& l) {
  return std::min(kSparseChunks, l.chunks()) * kSparseColumns * kSparseRows * 4;
}

// An item of a product P, which has
//   layout, lanes, columns                 columns of a tile are a multiple of lanes, and so many at most
//   bool load(tile, block, columns, x)     a block of the tile, transposed: [places][columns] of four bytes; whether it
//                                          holds what `finish` has to know of
//   multiply(block, chunk, columns, x, sums)        sums [256][columns] of four bytes, which the first block begins
//   finish(tile, columns, sums, known)              sums of all chunks, one behind the other, to y
template <typename P>
void run_sparse_item(const P& p, const SparseTile& item, Watch* watch, char* x) {
  char* const sums = x + sparse_block_bytes(p.columns);
  const int64_t chunks = item.end - item.begin;
  // Calls f(tile, its columns, its sums, its bit).
  const auto each_tile = [&](auto f) {
    char* to = sums;
    uint64_t bit = 1;
    for (int64_t row = 0; row < item.rows; row += p.columns, bit <<= 1) {
      const int64_t rows = std::min(p.columns, item.rows - row), columns = ceil_div(rows, p.lanes) * p.lanes;
      f(SparseTile{item.row + row, rows, item.begin, item.end}, columns, to, bit);
      to += chunks * kSparseColumns * columns * 4;
    }
  };
  uint64_t known = 0;
  Pace pace(watch, 2.0 * static_cast<double>(kSparsePlaces * kSparseRows * chunks * kSparseColumns));
  for (int64_t block = 0; block < p.layout.blocks(); ++block) {
    if (pace.stop()) return;
    each_tile([&](const SparseTile& tile, int64_t columns, char* to, uint64_t bit) {
      if (tile.rows < columns) std::fill(x, x + sparse_block_bytes(columns), '\0');
      if (p.load(tile, block, columns, x)) known |= bit;
      for (int64_t chunk = item.begin; chunk < item.end; ++chunk, to += kSparseColumns * columns * 4)
        p.multiply(block, chunk, columns, x, to);
    });
  }
  each_tile([&](const SparseTile& tile, int64_t columns, char* from, uint64_t bit) {
    p.finish(tile, columns, from, (known & bit) != 0);
  });
}

// All of it: make(item, scratch of the worker) is the product; `bytes` of scratch are each worker's.
template <typename Make>
void run_sparse(const SparseLayout& l, int64_t m, int64_t columns, int64_t bytes, KernelContext& ctx, Make make) {
  const int64_t threads = ctx.pool ? ctx.threads : 1;
  const SparseItems items(l, m, columns, threads);
  parallel_items(ctx, items.down * items.across, threads, [&](int64_t worker, int64_t i) {
    const int64_t row = i / items.across * items.rows, begin = i % items.across * items.chunks;
    const SparseTile item{row, std::min(items.rows, m - row), begin, std::min(l.chunks(), begin + items.chunks)};
    char* const own = static_cast<char*>(ctx.scratch) + worker * bytes;
    run_sparse_item(make(item, own), item, ctx.watch, own);
  });
}

}  // namespace mrt
