// Whether bytes are UTF-8 text that can be handed out as a C string.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mrt {

// Well-formed UTF-8 (no surrogates, no overlong forms, at most U+10FFFF) without NUL.
inline bool is_text(const uint8_t* p, size_t n) {
  size_t i = 0;
  while (i < n) {
    const uint8_t lead = p[i];
    if (lead == 0) return false;
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const size_t extra = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    if (lead < 0xC2 || lead > 0xF4 || n - i <= extra) return false;
    for (size_t k = 1; k <= extra; ++k)
      if ((p[i + k] & 0xC0) != 0x80) return false;
    const uint8_t second = p[i + 1];
    if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) || (lead == 0xF0 && second < 0x90) ||
        (lead == 0xF4 && second > 0x8F))
      return false;
    i += extra + 1;
  }
  return true;
}

}  // namespace mrt
