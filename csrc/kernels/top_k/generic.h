// Keys of elements, written once for every instruction set: loops that the compiler makes vectors of.
#pragma once

#include "kernels/top_k/top_k_kernels.h"

namespace mrt {
namespace {

// Stored: the signed or unsigned integer that holds an element's bits. infinity: its bits, of floats only.
template <typename Stored, typename Key, bool is_float>
bool keys_of(const void* from, int64_t n, bool largest, Stored infinity, Key limit, Key* keys) {
  constexpr int kBits = 8 * sizeof(Stored);
  constexpr Stored kTop = static_cast<Stored>(static_cast<uint64_t>(1) << (kBits - 1));
  constexpr Stored kBelowTop = static_cast<Stored>(~kTop);
  const char* x = static_cast<const char*>(from);
  const Key turn = largest ? -1 : 0;
  Key below = 0;
  for (int64_t i = 0; i < n; ++i) {
    Stored bits;
    __builtin_memcpy(&bits, x + i * sizeof(Stored), sizeof(Stored));
    Key key;
    if constexpr (is_float) {
      Stored ordered = static_cast<Stored>(bits ^ ((bits >> (kBits - 1)) & kBelowTop));
      ordered = bits == kTop ? 0 : ordered;
      ordered = static_cast<Stored>(bits & kBelowTop) > infinity ? kBelowTop : ordered;
      key = ordered;
    } else if constexpr (static_cast<Stored>(-1) > 0 && sizeof(Stored) == sizeof(Key)) {
      key = static_cast<Key>(bits ^ kTop);
    } else {
      key = static_cast<Key>(bits);
    }
    key ^= turn;
    keys[i] = key;
    below |= static_cast<Key>(key < limit);
  }
  return below != 0;
}

bool narrow(Number number, bool largest, const void* x, int64_t n, int32_t limit, int32_t* keys) {
  switch (number) {
    case Number::u8:
      return keys_of<uint8_t, int32_t, false>(x, n, largest, 0, limit, keys);
    case Number::s8:
      return keys_of<int8_t, int32_t, false>(x, n, largest, 0, limit, keys);
    case Number::u16:
      return keys_of<uint16_t, int32_t, false>(x, n, largest, 0, limit, keys);
    case Number::s16:
      return keys_of<int16_t, int32_t, false>(x, n, largest, 0, limit, keys);
    case Number::f16:
      return keys_of<int16_t, int32_t, true>(x, n, largest, 0x7C00, limit, keys);
    case Number::bf16:
      return keys_of<int16_t, int32_t, true>(x, n, largest, 0x7F80, limit, keys);
    case Number::u32:
      return keys_of<uint32_t, int32_t, false>(x, n, largest, 0, limit, keys);
    case Number::s32:
      return keys_of<int32_t, int32_t, false>(x, n, largest, 0, limit, keys);
    default:
      return keys_of<int32_t, int32_t, true>(x, n, largest, 0x7F800000, limit, keys);
  }
}

bool wide(Number number, bool largest, const void* x, int64_t n, int64_t limit, int64_t* keys) {
  switch (number) {
    case Number::u64:
      return keys_of<uint64_t, int64_t, false>(x, n, largest, 0, limit, keys);
    case Number::s64:
      return keys_of<int64_t, int64_t, false>(x, n, largest, 0, limit, keys);
    default:
      return keys_of<int64_t, int64_t, true>(x, n, largest, 0x7FF0000000000000, limit, keys);
  }
}

}  // namespace
}  // namespace mrt
