// Weights of which most are zero, as the products of this family read them: what is left of them, and where it stood.
//
// The depth is cut into blocks of kSparseDepth, the columns into chunks of kSparseColumns. The part of a block and a
// chunk holds rows, each one column of w, or `width` of them next to each other whose zeros are the same; an entry is
// a place of the depth at which a row has weights, `deep` k's from a multiple of `deep` on. Rows are sorted by how many
// entries of each kind they have: a loop over one then runs as often as the loop before it, which a CPU foresees.
//
//   offsets   int64 [parts + 1]: where the parts begin, and where the last ends; parts of a block next to each other
//   a part    uint16 [kinds][rows] entries of each row, by kind; uint8 [rows] which row of the chunk it is; uint8
//             [entries] the place of each within its block, in `deep` k's, a row behind the other; zeros up to a
//             multiple of 4 bytes; the weights of each entry
//
// A place is a byte and a block has as many places as a byte, of which only those of the last block can be beyond the
// depth: so few bytes have to be looked at when a file is loaded.
#pragma once

#include <cstdint>

#include "kernels/checks.h"

namespace mrt {

constexpr int64_t kSparseColumns = 256;  // of a chunk

// What of a packing its contract and attributes fix.
struct SparseLayout {
  int64_t k, n;
  int64_t width;         // columns of a row: 1 or 4
  int64_t deep;          // k's of an entry: 1 or 4
  int64_t places;        // of a block, at most 256
  int64_t kinds;         // of entries, each with a count of its own
  int64_t weight_bytes;  // of one weight

  int64_t depth() const { return places * deep; }
  int64_t blocks() const { return std::max<int64_t>(1, ceil_div(k, depth())); }
  int64_t chunks() const { return ceil_div(n, kSparseColumns); }
  int64_t parts() const { return checked_mul(blocks(), chunks()); }  // -1: too many
  int64_t entry_bytes() const { return width * deep * weight_bytes; }
  // Of one block or chunk.
  int64_t places_of(int64_t block) const { return ceil_div(std::min(depth(), k - block * depth()), deep); }
  int64_t columns_of(int64_t chunk) const { return std::min(kSparseColumns, n - chunk * kSparseColumns); }
  int64_t rows_of(int64_t chunk) const { return ceil_div(columns_of(chunk), width); }
  // Bytes of the table of offsets; -1: too many.
  int64_t table_bytes() const;
};

// Where what is in a part begins, in bytes from the part's begin.
struct SparseWithin {
  int64_t order, index, weights, end;
  SparseWithin(const SparseLayout& l, int64_t rows, int64_t entries)
      : order(l.kinds * rows * 2),
        index(order + rows),
        weights((index + entries + 3) & ~int64_t{3}),
        end((weights + entries * l.entry_bytes() + 3) & ~int64_t{3}) {}
};

// One part, where it lies.
struct SparsePart {
  const uint16_t* counts;  // [kinds][rows]
  const uint8_t* order;
  const uint8_t* index;
  const void* weights;
};
SparsePart sparse_part(const SparseLayout& l, const void* packed, int64_t block, int64_t chunk);

// That the packed weights are what the layout says, so that a run reads nothing else: all of it but the weights
// themselves. Done once, when they are loaded.
Status check_sparse(const char* contract, const SparseLayout& l, const Tensor& packed);

}  // namespace mrt
