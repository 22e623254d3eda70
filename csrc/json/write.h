// Tensors as flat JSON lists.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "types.h"

namespace maas_rt_json {

// Bytes that write_tensor may use.
size_t most_bytes(Type type, size_t count);
// A list of `count` elements at `values` to `out`; returns its end. Floats are the shortest text that reads back to
// the same bits in their own type, and keep a point or an exponent; what is not finite is a string, every NaN "NaN".
char* write_tensor(Type type, const void* values, size_t count, char* out);

// A list of strings, of which offsets[i] and offsets[i + 1] bound the i-th in `bytes`. Throws Error where one is no
// UTF-8, or the bounds are not in order or not in `size`.
std::string write_strings(const char* bytes, size_t size, const int64_t* offsets, size_t count,
                          const std::string& what);

}  // namespace maas_rt_json
