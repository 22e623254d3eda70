#include "runtime/free_list.h"

#include <algorithm>
#include <iterator>

namespace mrt {

size_t FreeList::take(size_t bytes) {
  const auto fit = by_bytes_.lower_bound({bytes, 0});
  if (fit == by_bytes_.end()) {
    const size_t offset = end_;
    end_ += bytes;
    high_ = std::max(high_, end_);
    return offset;
  }
  const auto [room, offset] = *fit;
  remove(offset, room);
  if (room > bytes) insert(offset + bytes, room - bytes);
  return offset;
}

void FreeList::give_back(size_t offset, size_t bytes) {
  const auto after = by_offset_.lower_bound({offset, 0});
  const bool joins_after = after != by_offset_.end() && after->first == offset + bytes;
  const size_t more = joins_after ? after->second : 0;
  if (after != by_offset_.begin()) {
    const auto [before, room] = *std::prev(after);
    if (before + room == offset) {
      remove(before, room);
      offset = before;
      bytes += room;
    }
  }
  if (joins_after) remove(offset + bytes, more);
  if (offset + bytes + more == end_)
    end_ = offset;
  else
    insert(offset, bytes + more);
}

void FreeList::clear() {
  for (Pieces* pieces : {&by_offset_, &by_bytes_})
    while (!pieces->empty()) drop(pieces, pieces->begin());
  end_ = high_ = 0;
}

void FreeList::insert(size_t offset, size_t bytes) {
  add(&by_offset_, offset, bytes);
  add(&by_bytes_, bytes, offset);
}

void FreeList::remove(size_t offset, size_t bytes) {
  drop(&by_offset_, by_offset_.find({offset, bytes}));
  drop(&by_bytes_, by_bytes_.find({bytes, offset}));
}

void FreeList::add(Pieces* pieces, size_t first, size_t second) {
  if (spare_.empty()) {
    const size_t nodes = by_offset_.size() + by_bytes_.size() + 1;
    if (spare_.capacity() < nodes) spare_.reserve(2 * nodes);  // so that drop() never fails
    pieces->emplace(first, second);
    return;
  }
  spare_.back().value() = {first, second};
  pieces->insert(std::move(spare_.back()));
  spare_.pop_back();
}

}  // namespace mrt
