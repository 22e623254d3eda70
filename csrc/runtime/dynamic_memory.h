// Memory for values whose size only the data decides. They share it by lifetime, as those in the arena do: from a list
// of free pieces, because sizes are known one after the other.
//
// In the first run at some sizes a value for which the memory is too small gets a block of its own; behind the run the
// memory is made as large as all would have needed in it, so that a run like the one before allocates nothing. Values
// that the session gives to its caller have memory that is theirs until the session ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/arena.h"
#include "runtime/free_list.h"

namespace mrt {

class DynamicMemory {
 public:
  // Of so many values; those in `given_values` (by index) go to the caller.
  void init(size_t values, const std::vector<uint32_t>& given_values);

  // Memory of at least so many bytes for the value: what it has already, if that is large enough. Null if there is
  // none.
  uint8_t* reserve(uint32_t value, size_t bytes);
  // The same, where the first `used` bytes of what the value has stay; grows by doubling.
  uint8_t* grow(uint32_t value, size_t bytes, size_t used);
  void release(uint32_t value);
  // Before and behind a run: no value has memory any more, but for those that were given away.
  void reset();

  bool empty() const { return blocks_.empty(); }
  size_t bytes() const;
  // Whether it lies in memory that was given to the caller, now or before.
  bool owns(const void* p) const;

 private:
  struct Block {
    uint8_t* data = nullptr;  // null: it has none
    size_t offset = 0, bytes = 0;
    Arena own;                 // where the shared memory does not reach that far yet
    int32_t given_arena = -1;  // index into given_arenas_
  };
  uint8_t* take(Block* block, size_t bytes, size_t used);

  std::vector<Block> blocks_;  // by value
  std::vector<KeptArena> given_arenas_;
  FreeList free_;
  Arena shared_;
};

}  // namespace mrt
