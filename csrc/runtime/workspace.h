// Temporary buffers of generated functions: a stack in chunks that are kept, so that a steady run allocates nothing.
// Buffers are given back in any order; the top is taken back once it is free. Used by one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "base/arena.h"

namespace mrt {

class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() {
    while (top_) drop();
  }

  void* take(size_t bytes) {
    const size_t need = align_up(bytes, kAlignment) + sizeof(Header);
    if (need < bytes) return nullptr;
    if (!top_ || top_->size - top_->used < need) {
      if (!grow(need)) return nullptr;
    }
    Header* header = reinterpret_cast<Header*>(reinterpret_cast<uint8_t*>(top_) + top_->used);
    header->size = need;
    header->previous = top_->last;
    header->freed = false;
    top_->last = header;
    top_->used += need;
    live_ += need;
    if (live_ > peak_) peak_ = live_;
    return header + 1;
  }

  void give_back(void* pointer) {
    (static_cast<Header*>(pointer) - 1)->freed = true;
    for (;;) {
      while (top_->last && top_->last->freed) {
        top_->used -= top_->last->size;
        live_ -= top_->last->size;
        top_->last = top_->last->previous;
      }
      if (top_->last || !top_->below) break;
      drop();
    }
    // All is free: the lowest chunk stays, and from now on it is as large as all of them were together.
    if (live_ == 0) prepare(peak_);
  }

  // The most that was taken at a time.
  size_t peak() const { return peak_; }
  // Makes room for `bytes` at a time, while nothing is taken.
  void prepare(size_t bytes) {
    if (bytes > peak_) peak_ = bytes;
    if (peak_ > 0 && live_ == 0 && (!top_ || top_->size - sizeof(Chunk) < peak_)) grow(peak_);
  }

 private:
  struct alignas(kAlignment) Header {
    size_t size;
    Header* previous;
    bool freed;
  };
  struct alignas(kAlignment) Chunk {
    size_t size, used;
    Header* last;
    Chunk* below;
  };

  bool grow(size_t need) {
    if (need > SIZE_MAX / 4) return false;
    if (top_ && !top_->last) drop();  // an empty chunk that is too small gives way
    const size_t size = align_up(need + sizeof(Chunk), size_t{1} << 16);
    Chunk* chunk = static_cast<Chunk*>(std::aligned_alloc(kAlignment, size));
    if (!chunk) return false;
    chunk->size = size;
    chunk->used = sizeof(Chunk);
    chunk->last = nullptr;
    chunk->below = top_;
    top_ = chunk;
    return true;
  }
  void drop() {
    Chunk* chunk = top_;
    top_ = chunk->below;
    std::free(chunk);
  }

  Chunk* top_ = nullptr;
  size_t live_ = 0;  // bytes taken and not given back
  size_t peak_ = 0;
};

}  // namespace mrt
