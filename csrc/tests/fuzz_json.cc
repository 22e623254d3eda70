// Fuzz target: whatever bytes a request has, the scan refuses it or leaves a document, and its data are refused or read
// to values that are written and read again as they are.
//
// As a libFuzzer target: fuzz_json CORPUS. Standalone (any compiler): fuzz_json SECONDS SEED mutates built-in requests.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "json/read.h"
#include "json/scan.h"
#include "json/write.h"

using namespace maas_rt_json;

namespace {

constexpr Type kTypes[] = {Type::kBool,   Type::kInt8,   Type::kInt16,  Type::kInt32,  Type::kInt64,
                           Type::kUint8,  Type::kUint16, Type::kUint32, Type::kUint64, Type::kHalf,
                           Type::kBfloat, Type::kFloat,  Type::kDouble};

void require(bool holds) {
  if (!holds) std::abort();
}

// Memory of its own for a text, so that a sanitizer sees a step beyond it.
struct Text {
  explicit Text(const std::string& text) : bytes(text.begin(), text.end()) {}
  Data data(std::vector<int64_t> shape) const {
    return {bytes.data(), bytes.data() + bytes.size(), std::move(shape), "x", "element"};
  }
  std::vector<char> bytes;
};

// Reads data of a type, writes what was read and reads that again. Whether it was read.
bool round_trip(const Data& data, Type type) {
  const size_t count = data.count();
  const bool fits = count <= data.most_elements();
  const size_t item = with_type(type, [](auto is) { return sizeof(typename decltype(is)::type); });
  std::vector<char> values(fits ? count * item : 0), again(values.size());
  read_tensor(data, type, fits ? values.data() : nullptr);
  require(fits);
  std::vector<char> text(most_bytes(type, count));
  char* end = write_tensor(type, values.data(), count, text.data());
  const Text written(std::string(text.data(), end));
  read_tensor(written.data(data.shape), type, again.data());
  require(values == again);
  return true;
}

bool round_trip_strings(const Data& data) {
  const size_t count = data.count();
  const bool fits = count <= data.most_elements();
  std::vector<char> bytes(static_cast<size_t>(data.end - data.begin)), bytes_again;
  std::vector<int64_t> offsets(fits ? count + 1 : 0), offsets_again(offsets.size());
  read_strings(data, bytes.data(), fits ? offsets.data() : nullptr);
  require(fits);
  const size_t size = static_cast<size_t>(offsets[count]);
  const Text written(write_strings(bytes.data(), size, offsets.data(), count, "x"));
  bytes_again.resize(written.bytes.size());
  read_strings(written.data(data.shape), bytes_again.data(), offsets_again.data());
  require(offsets == offsets_again && std::memcmp(bytes.data(), bytes_again.data(), size) == 0);
  return true;
}

template <typename F>
int accepted(F f) {
  try {
    return f();
  } catch (const Error& error) {
    require(!error.text.empty());  // every refusal says why
    return 0;
  }
}

// How many of the ways in which it can be read the request was.
int one(const uint8_t* bytes, size_t size) {
  const Text body(std::string(bytes, bytes + size));
  return accepted([&] {
    const Scan found = scan_body(Message::kRequest, body.bytes.data(), size, 16, 4096);
    int n = 1;
    for (const auto& [begin, end] : found.data) {
      const Text text(std::string(body.bytes.data() + begin, body.bytes.data() + end));
      for (const auto& shape : {std::vector<int64_t>{4}, {2, 2}, {1, 2, 2}, {0}, {int64_t{1} << 40}}) {
        const Data data = text.data(shape);
        for (Type type : kTypes) n += accepted([&] { return round_trip(data, type); });
        n += accepted([&] { return round_trip_strings(data); });
      }
    }
    return n;
  });
}

}  // namespace

#if !defined(MRT_FUZZ_STANDALONE)
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  one(data, size);
  return 0;
}
#else
int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: fuzz_json SECONDS SEED\n"), 2;
  const std::string seeds[] = {
      R"({"id":"é\u00e9","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1.5,-2e-3],[0.1,-0.0]]}]})",
      R"({"inputs":[{"data":[1,-2,255,18446744073709551615]},{"data":["NaN","Infinity","-Infinity",65519.99]}]})",
      R"({"inputs":[{"data":["a","\ud83d\ude00\n","é€😀",""]},{"data":[[[true,false],[true,true]]]},{"data":[]}]})",
      R"({"inputs":[{"data":[123456789.0123456789,1e-45,3.4028235677973366e38,5e-324]}],"outputs":[{"name":"y"}]})"};
  const std::string pieces[] = {"[",
                                "]",
                                "{",
                                "}",
                                ",",
                                ":",
                                "\"",
                                "\\",
                                "\\u",
                                "d800",
                                "-",
                                ".",
                                "e",
                                "0",
                                "9",
                                "1e400",
                                "0000",
                                "\"data\":",
                                "\"NaN\"",
                                "true",
                                "\xc3",
                                "\xed\xa0\x80",
                                " ",
                                "\n",
                                "[[[[",
                                "]]]]",
                                "1,1,1,1",
                                "00000001",
                                "999999999999999999999",
                                "2049"};
  std::mt19937 random(static_cast<unsigned>(std::atoll(argv[2])));
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoll(argv[1]));
  size_t rounds = 0, read = 0;
  for (; std::chrono::steady_clock::now() < until; ++rounds) {
    std::string body = seeds[below(std::size(seeds))];
    for (size_t n = below(4); n-- > 0;) {
      const size_t at = below(body.size()), cut = below(4) == 0 ? below(8) : below(2);
      body.replace(at, cut, below(8) ? pieces[below(std::size(pieces))] : std::string(1, static_cast<char>(random())));
      if (below(16) == 0) body.resize(below(body.size()) + 1);
    }
    read += one(reinterpret_cast<const uint8_t*>(body.data()), body.size()) > 1;
  }
  std::printf("%zu requests, %zu with data that were read; seed %s\n", rounds, read, argv[2]);
  return 0;
}
#endif
