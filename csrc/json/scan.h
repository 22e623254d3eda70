// The body of an inference request or response (Open Inference Protocol v2) without the data of its tensors.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace maas_rt_json {

struct Scan {
  std::string rest;                             // the body, each "data" of a tensor replaced by its index in ...
  std::vector<std::pair<size_t, size_t>> data;  // ... these ranges of bytes
};

enum class Message { kRequest, kResponse };

// Splits a body that is one JSON value: an object that has in a list, "inputs" of a request, "outputs" of a response,
// objects with a "data" each. Everything but lists under "data" is checked here; of those the brackets and quotes
// alone, the rest where they are read.
//
// Takes linear time and memory for `rest`, no recursion. Throws Error where the body is no JSON, opens more than
// `max_depth` levels, has `max_rest` bytes or more beside the data, or gives a key twice that decides what is read.
Scan scan_body(Message message, const char* body, size_t size, size_t max_depth, size_t max_rest);

}  // namespace maas_rt_json
