#include "runtime/dynamic_memory.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace mrt {

void DynamicMemory::init(size_t values, const std::vector<uint32_t>& given_values) {
  blocks_ = std::vector<Block>(values);
  for (const uint32_t v : given_values)
    if (blocks_[v].given_arena < 0) {
      blocks_[v].given_arena = static_cast<int32_t>(given_arenas_.size());
      given_arenas_.emplace_back();
    }
}

uint8_t* DynamicMemory::reserve(uint32_t value, size_t bytes) {
  Block& b = blocks_[value];
  if (b.given_arena >= 0) {
    KeptArena& memory = given_arenas_[static_cast<size_t>(b.given_arena)];
    return memory.reserve(bytes) ? memory.data() : nullptr;
  }
  if (b.data && b.bytes >= bytes) return b.data;
  release(value);
  return take(&b, bytes, 0);
}

uint8_t* DynamicMemory::grow(uint32_t value, size_t bytes, size_t used) {
  Block& b = blocks_[value];
  if (b.given_arena >= 0) {
    KeptArena& memory = given_arenas_[static_cast<size_t>(b.given_arena)];
    const uint8_t* before = memory.data();
    if (!memory.reserve(bytes)) return nullptr;
    // The old block is still there.
    if (memory.data() != before && used > 0) std::memcpy(memory.data(), before, used);
    return memory.data();
  }
  if (b.data && b.bytes >= bytes) return b.data;
  return take(&b, std::max(bytes, 2 * b.bytes), used);
}

uint8_t* DynamicMemory::take(Block* b, size_t bytes, size_t used) {
  const size_t room = align_up(bytes, kAlignment);
  const size_t offset = free_.take(room);
  Arena own;
  const bool fits = offset + room <= shared_.bytes();
  if (!fits && !own.reserve(room)) {
    free_.give_back(offset, room);
    return nullptr;
  }
  uint8_t* data = fits ? shared_.data() + offset : own.data();
  if (used > 0) std::memcpy(data, b->data, used);
  if (b->data) free_.give_back(b->offset, b->bytes);
  b->data = data;
  b->offset = offset;
  b->bytes = room;
  b->own = std::move(own);
  return data;
}

void DynamicMemory::release(uint32_t value) {
  Block& b = blocks_[value];
  if (!b.data) return;
  free_.give_back(b.offset, b.bytes);
  b.data = nullptr;
  b.bytes = 0;
  b.own = Arena();
}

void DynamicMemory::reset() {
  const size_t needed = free_.high();
  if (needed == 0) return;
  for (Block& b : blocks_) {
    b.data = nullptr;
    b.bytes = 0;
    b.own = Arena();
  }
  free_.clear();
  (void)shared_.reserve(needed);  // without it each value has a block of its own again
}

size_t DynamicMemory::bytes() const {
  size_t total = shared_.bytes();
  for (const Block& b : blocks_) total += b.own.bytes();
  for (const KeptArena& a : given_arenas_) total += a.bytes();
  return total;
}

bool DynamicMemory::owns(const void* p) const {
  return std::any_of(given_arenas_.begin(), given_arenas_.end(), [&](const KeptArena& a) { return a.owns(p); });
}

}  // namespace mrt
