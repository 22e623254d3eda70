// The data of a JSON tensor to memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "types.h"

namespace maas_rt_json {

// A JSON list in [begin, end) and what it must be: flat in row-major order, or nested as the shape is.
struct Data {
  const char* begin;
  const char* end;
  std::vector<int64_t> shape;  // not negative; their product is a size_t
  std::string what;            // "input 'x'", for messages
  const char* type_name;       // "float32", for messages

  size_t count() const;
  // No list in so many bytes has more elements.
  size_t most_elements() const { return static_cast<size_t>(end - begin) / 2; }
};

// The elements to `out`, which has room for data.count() of them; where that is more than data.most_elements(), `out`
// may be null. Integers are exact, floats correctly rounded to the type itself; "NaN", "Infinity" and "-Infinity" as
// strings are values of floats. Throws Error where the list, an element or their number is not as it must be.
void read_tensor(const Data& data, Type type, void* out);

// The same for strings: their UTF-8 one behind the other to `bytes`, which has room for end - begin; offsets[0] is 0
// and offsets[i + 1] the end of string i.
void read_strings(const Data& data, char* bytes, int64_t* offsets);

}  // namespace maas_rt_json
