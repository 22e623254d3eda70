// Pieces of a range of offsets that has no end: the smallest that fits is taken, and what is given back joins its
// neighbours. Steps take n log n; once as many pieces as ever were free at a time have been, it allocates nothing.
#pragma once

#include <cstddef>
#include <set>
#include <utility>
#include <vector>

namespace mrt {

class FreeList {
 public:
  // The offset of so many bytes; behind all that is taken where no free piece is large enough.
  size_t take(size_t bytes);
  void give_back(size_t offset, size_t bytes);
  // All is free again, and the mark of high() at 0.
  void clear();
  // The end of the furthest piece that was taken.
  size_t high() const { return high_; }

 private:
  using Pieces = std::set<std::pair<size_t, size_t>>;

  void insert(size_t offset, size_t bytes);
  void remove(size_t offset, size_t bytes);
  void add(Pieces* pieces, size_t first, size_t second);
  void drop(Pieces* pieces, Pieces::iterator piece) { spare_.push_back(pieces->extract(piece)); }

  Pieces by_offset_;  // (offset, bytes); none ends at end_
  Pieces by_bytes_;   // (bytes, offset)
  std::vector<Pieces::node_type> spare_;
  size_t end_ = 0, high_ = 0;
};

}  // namespace mrt
