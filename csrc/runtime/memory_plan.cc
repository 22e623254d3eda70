#include "runtime/memory_plan.h"

#include <algorithm>
#include <utility>

#include "base/arena.h"
#include "runtime/free_list.h"

namespace mrt {
namespace {

using Pairs = std::vector<std::pair<size_t, size_t>>;

size_t room_of(const Buffer& b) { return align_up(b.bytes, kAlignment); }

// (key, index) of all buffers, ascending.
template <typename Key>
Pairs sorted_by(const std::vector<Buffer>& buffers, const Key& key) {
  Pairs order;
  order.reserve(buffers.size());
  for (const Buffer& b : buffers) order.push_back({key(b), order.size()});
  if (!std::is_sorted(order.begin(), order.end())) std::sort(order.begin(), order.end());
  return order;
}
Pairs sorted_by_first(const std::vector<Buffer>& buffers) {
  return sorted_by(buffers, [](const Buffer& b) { return b.first; });
}

// Which buffers live at the same time.
struct Neighbours {
  std::vector<uint32_t> begin;   // by buffer: of its own in `others`; one more at the end
  std::vector<uint32_t> others;  // each pair twice
  size_t peak = 0;               // bytes that live at a time at most: no layout takes less
};

// False if there are more pairs than so many of each buffer on average: then it stops early.
bool find_neighbours(const std::vector<Buffer>& buffers, Neighbours* out) {
  constexpr size_t kPairs = 256;
  const size_t n = buffers.size();
  Pairs pairs;
  std::vector<uint32_t> live;
  pairs.reserve(2 * n);
  out->begin.assign(n + 1, 0);
  for (const auto& [first, index] : sorted_by_first(buffers)) {
    size_t kept = 0, bytes = room_of(buffers[index]);
    for (const uint32_t other : live) {
      if (buffers[other].last < first) continue;
      live[kept++] = other;
      bytes += room_of(buffers[other]);
      pairs.push_back({index, other});
      ++out->begin[index];
      ++out->begin[other];
    }
    if (pairs.size() > kPairs * n) return false;
    live.resize(kept);
    live.push_back(static_cast<uint32_t>(index));
    out->peak = std::max(out->peak, bytes);
  }
  uint32_t end = 0;
  for (uint32_t& begin : out->begin) begin = end += begin;
  out->others.resize(2 * pairs.size());
  for (const auto& [a, b] : pairs) {
    out->others[--out->begin[a]] = static_cast<uint32_t>(b);
    out->others[--out->begin[b]] = static_cast<uint32_t>(a);
  }
  return true;
}

// Greedy by size, best fit: the largest buffer first, each into the smallest gap that is free all its life (Pisarchyk
// and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).
size_t plan_by_size(const Neighbours& neighbours, std::vector<Buffer>* buffers) {
  std::vector<uint8_t> placed(buffers->size(), 0);
  Pairs occupied;  // begin and end of those that are placed and live at the same time
  size_t total = 0;
  for (const auto& [key, index] : sorted_by(*buffers, [](const Buffer& b) { return ~b.bytes; })) {
    Buffer& b = (*buffers)[index];
    const size_t need = room_of(b);
    occupied.clear();
    for (uint32_t i = neighbours.begin[index]; i < neighbours.begin[index + 1]; ++i) {
      const Buffer& o = (*buffers)[neighbours.others[i]];
      if (placed[neighbours.others[i]]) occupied.push_back({o.offset, o.offset + room_of(o)});
    }
    std::sort(occupied.begin(), occupied.end());
    size_t end = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
    for (const auto& [from, to] : occupied) {
      if (from > end && from - end >= need && from - end < best_gap) {
        best = end;
        best_gap = from - end;
      }
      end = std::max(end, to);
    }
    b.offset = best != SIZE_MAX ? best : end;
    placed[index] = 1;
    total = std::max(total, b.offset + need);
  }
  return total;
}

// In the order of execution, from a list of free pieces.
size_t plan_by_time(std::vector<Buffer>* buffers) {
  const Pairs by_last = sorted_by(*buffers, [](const Buffer& b) { return b.last; });
  auto dead = by_last.begin();
  FreeList free;
  for (const auto& [first, index] : sorted_by_first(*buffers)) {
    for (; dead->first < first; ++dead) {
      const Buffer& b = (*buffers)[dead->second];
      if (b.bytes > 0) free.give_back(b.offset, room_of(b));
    }
    Buffer& b = (*buffers)[index];
    b.offset = b.bytes > 0 ? free.take(room_of(b)) : 0;
  }
  return free.high();
}

}  // namespace

size_t plan_memory(std::vector<Buffer>* buffers) {
  Neighbours neighbours;
  if (!find_neighbours(*buffers, &neighbours)) return plan_by_time(buffers);
  const size_t total = plan_by_size(neighbours, buffers);
  if (total == neighbours.peak) return total;
  std::vector<Buffer> other = *buffers;
  const size_t total_by_time = plan_by_time(&other);
  if (total_by_time >= total) return total;
  *buffers = std::move(other);
  return total_by_time;
}

}  // namespace mrt
