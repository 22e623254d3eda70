// Sorting and selecting among very many entries, which no two of are equal, in steps between which a run can be left.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "base/watch.h"

namespace mrt {

// So many entries are left to the standard library, as are all where nothing can end the run.
constexpr int64_t kLeftAlone = 1 << 19;

// Entries below a pivot to the front; returns where the others begin. Both parts have some.
template <typename Entry>
Entry* split(Entry* first, Entry* last) {
  std::array<Entry, 9> sample;
  const int64_t step = (last - first) / 9;
  for (int64_t i = 0; i < 9; ++i) sample[static_cast<size_t>(i)] = first[i * step];
  std::nth_element(sample.begin(), sample.begin() + 4, sample.end());
  const Entry pivot = sample[4];
  return std::partition(first, last, [&](const Entry& e) { return e < pivot; });
}

// std::nth_element. Left halfway if the run has to end.
template <typename Entry>
void place_nth(Entry* first, Entry* nth, Entry* last, Watch* watch) {
  for (int32_t tries = 0; watch != nullptr && tries < 64 && last - first > kLeftAlone; ++tries) {
    if (watch->stop()) return;
    Entry* const middle = split(first, last);
    (nth < middle ? last : first) = middle;
  }
  std::nth_element(first, nth, last);
}

// std::sort. Left halfway if the run has to end.
template <typename Entry>
void sort_entries(Entry* first, Entry* last, Watch* watch) {
  constexpr size_t kMaxRanges = 64;
  std::array<std::pair<Entry*, Entry*>, kMaxRanges> todo;
  size_t n = 0;
  todo[n++] = {first, last};
  while (n > 0) {
    const auto [begin, end] = todo[--n];
    if (watch != nullptr && watch->stop()) return;
    if (watch == nullptr || end - begin <= kLeftAlone || n + 2 > kMaxRanges) {
      std::sort(begin, end);
      continue;
    }
    Entry* const middle = split(begin, end);
    // The smaller part first, so that few wait.
    const bool left_is_larger = middle - begin > end - middle;
    todo[n++] = left_is_larger ? std::make_pair(begin, middle) : std::make_pair(middle, end);
    todo[n++] = left_is_larger ? std::make_pair(middle, end) : std::make_pair(begin, middle);
  }
}

}  // namespace mrt
