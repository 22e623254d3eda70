#include "kernels/sparse/packing.h"

#include <algorithm>
#include <cinttypes>
#include <cstring>

namespace mrt {
namespace {

int64_t sum_of(const uint16_t* counts, int64_t n) {
  int64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += counts[i];
  return sum;
}

bool is_permutation(const uint8_t* order, int64_t rows) {
  bool seen[kSparseColumns] = {};
  for (int64_t i = 0; i < rows; ++i) {
    if (order[i] >= rows || seen[order[i]]) return false;
    seen[order[i]] = true;
  }
  return true;
}

uint8_t largest_of(const uint8_t* bytes, int64_t n) {
  using Bytes = uint8_t __attribute__((vector_size(16)));
  constexpr int64_t kWidth = sizeof(Bytes);
  Bytes most{};
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    Bytes some;
    std::memcpy(&some, bytes + i, sizeof(some));
    most = some > most ? some : most;
  }
  uint8_t largest = 0;
  for (int64_t lane = 0; lane < kWidth; ++lane) largest = std::max(largest, most[lane]);
  for (; i < n; ++i) largest = std::max(largest, bytes[i]);
  return largest;
}

// A part of `bytes` at `data`; null or what is wrong with it.
const char* fault_of(const SparseLayout& l, const uint8_t* data, int64_t bytes, int64_t block, int64_t chunk) {
  const int64_t rows = l.rows_of(chunk), places = l.places_of(block);
  if (bytes < SparseWithin(l, rows, 0).end) return "is too short";
  const uint16_t* const counts = reinterpret_cast<const uint16_t*>(data);
  const int64_t entries = sum_of(counts, l.kinds * rows);
  const SparseWithin at(l, rows, entries);
  if (bytes != at.end) return "has other weights than its counts say";
  if (!is_permutation(data + at.order, rows)) return "has a row twice or one that it does not have";
  const bool outside = places < 256 && entries > 0 && largest_of(data + at.index, entries) >= places;
  return outside ? "has an index out of range" : nullptr;
}

}  // namespace

int64_t SparseLayout::table_bytes() const {
  const int64_t all = parts();
  return all < 0 ? -1 : checked_mul(all + 1, static_cast<int64_t>(sizeof(int64_t)));
}

SparsePart sparse_part(const SparseLayout& l, const void* packed, int64_t block, int64_t chunk) {
  const uint8_t* const bytes = static_cast<const uint8_t*>(packed);
  const uint8_t* const part = bytes + static_cast<const int64_t*>(packed)[block * l.chunks() + chunk];
  const int64_t rows = l.rows_of(chunk);
  const uint16_t* const counts = reinterpret_cast<const uint16_t*>(part);
  const SparseWithin at(l, rows, sum_of(counts, l.kinds * rows));
  return {counts, part + at.order, part + at.index, part + at.weights};
}

Status check_sparse(const char* contract, const SparseLayout& l, const Tensor& packed) {
  const int64_t table = l.table_bytes(), size = static_cast<int64_t>(std::min<uint64_t>(packed.bytes, INT64_MAX));
  if (table < 0) return fail(MRT_ERROR_SHAPE, "%s: the extents of the weight are too large to address", contract);
  if (table > size) {
    return fail(MRT_ERROR_SHAPE, "%s: the packed weight holds %" PRId64 " bytes, its offsets alone need %" PRId64,
                contract, size, table);
  }
  const int64_t* const offsets = packed.as<const int64_t>();
  int64_t begin = table;
  for (int64_t block = 0; l.n > 0 && block < l.blocks(); ++block) {
    for (int64_t chunk = 0; chunk < l.chunks(); ++chunk) {
      const int64_t part = block * l.chunks() + chunk, end = offsets[part + 1];
      const char* fault =
          offsets[part] != begin || end < begin || end > size ? "does not lie where it should" : nullptr;
      if (fault == nullptr) fault = fault_of(l, packed.as<const uint8_t>() + begin, end - begin, block, chunk);
      if (fault != nullptr) {
        return fail(MRT_ERROR_FORMAT, "%s: the packed weight is damaged: part %" PRId64 " of it %s", contract, part,
                    fault);
      }
      begin = end;
    }
  }
  return Status();
}

}  // namespace mrt
