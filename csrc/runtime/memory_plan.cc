#include "runtime/memory_plan.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <queue>

#include "base/arena.h"

namespace mrt {
namespace {

// Quadratic in the number of buffers; beyond this many the second algorithm is used.
constexpr size_t kQuadraticLimit = 4096;

size_t plan_by_size(std::vector<Lifetime>* buffers) {
  std::vector<uint32_t> order(buffers->size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    const Lifetime &x = (*buffers)[a], &y = (*buffers)[b];
    return x.bytes != y.bytes ? x.bytes > y.bytes : a < b;
  });
  std::vector<uint32_t> placed;  // ascending by offset
  placed.reserve(order.size());
  size_t total = 0;
  for (const uint32_t index : order) {
    Lifetime& b = (*buffers)[index];
    const size_t need = align_up(b.bytes, kAlignment);
    size_t end = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
    for (const uint32_t other : placed) {
      const Lifetime& o = (*buffers)[other];
      if (o.last < b.first || o.first > b.last) continue;
      if (o.offset > end && o.offset - end >= need && o.offset - end < best_gap) {
        best = end;
        best_gap = o.offset - end;
      }
      end = std::max(end, o.offset + align_up(o.bytes, kAlignment));
    }
    b.offset = best != SIZE_MAX ? best : end;
    total = std::max(total, b.offset + need);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), index,
                                   [&](uint32_t x, uint32_t y) { return (*buffers)[x].offset < (*buffers)[y].offset; }),
                  index);
  }
  return total;
}

// In the order of execution with a list of free pieces: a little more memory, n log n time.
size_t plan_by_time(std::vector<Lifetime>* buffers) {
  std::vector<uint32_t> order(buffers->size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return (*buffers)[a].first < (*buffers)[b].first; });
  const auto ends_later = [&](uint32_t a, uint32_t b) { return (*buffers)[a].last > (*buffers)[b].last; };
  std::priority_queue<uint32_t, std::vector<uint32_t>, decltype(ends_later)> live(ends_later);
  std::map<size_t, size_t> free_at;       // offset -> bytes
  std::multimap<size_t, size_t> free_by;  // bytes -> offset
  size_t total = 0;
  const auto remove = [&](size_t offset, size_t bytes) {
    free_at.erase(offset);
    for (auto it = free_by.lower_bound(bytes); it != free_by.end(); ++it)
      if (it->second == offset) {
        free_by.erase(it);
        break;
      }
  };
  const auto add = [&](size_t offset, size_t bytes) {
    auto after = free_at.lower_bound(offset);
    if (after != free_at.end() && after->first == offset + bytes) {
      const size_t more = after->second;
      remove(offset + bytes, more);
      bytes += more;
    }
    auto before = free_at.lower_bound(offset);
    if (before != free_at.begin() && (--before)->first + before->second == offset) {
      const size_t start = before->first, more = before->second;
      remove(start, more);
      offset = start;
      bytes += more;
    }
    free_at.emplace(offset, bytes);
    free_by.emplace(bytes, offset);
  };
  for (const uint32_t index : order) {
    Lifetime& b = (*buffers)[index];
    while (!live.empty() && (*buffers)[live.top()].last < b.first) {
      const Lifetime& dead = (*buffers)[live.top()];
      live.pop();
      if (dead.bytes > 0) add(dead.offset, align_up(dead.bytes, kAlignment));
    }
    const size_t need = align_up(b.bytes, kAlignment);
    const auto fit = free_by.lower_bound(need);
    if (need == 0) {
      b.offset = 0;
    } else if (fit != free_by.end()) {
      const size_t bytes = fit->first;
      b.offset = fit->second;
      remove(b.offset, bytes);
      if (bytes > need) add(b.offset + need, bytes - need);
    } else {
      b.offset = total;
      total += need;
    }
    live.push(index);
  }
  return total;
}

}  // namespace

size_t plan_memory(std::vector<Lifetime>* buffers) {
  return buffers->size() <= kQuadraticLimit ? plan_by_size(buffers) : plan_by_time(buffers);
}

}  // namespace mrt
