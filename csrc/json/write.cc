#include "write.h"

#include <cstring>

namespace maas_rt_json {
namespace {

char* write_word(char* out, const char* word, size_t n) {
  std::memcpy(out, word, n);
  return out + n;
}

// A character that a JSON string cannot have as it is.
void escape(std::string* out, unsigned char c) {
  constexpr const char* kDigits = "0123456789abcdef";
  constexpr char kLetters[] = {'b', 't', 'n', 0, 'f', 'r'};  // of \b to \r
  const char letter = c >= '\b' && c <= '\r' ? kLetters[c - '\b'] : c < ' ' ? '\0' : static_cast<char>(c);
  if (letter) {
    *out += {'\\', letter};
  } else {
    *out += {'\\', 'u', '0', '0', kDigits[c >> 4], kDigits[c & 15]};
  }
}

}  // namespace

size_t most_bytes(Type type, size_t count) {
  const size_t element = with_type(type, [](auto is) -> size_t {
    switch (sizeof(typename decltype(is)::type)) {
      case 1:
        return 5;  // false
      case 2:
        return 12;  // "-Infinity"
      case 4:
        return 16;  // -1.17549435e-38
      default:
        return kNumberBytes;
    }
  });
  return count * (element + 1) + 2;
}

char* write_tensor(Type type, const void* values, size_t count, char* out) {
  *out++ = '[';
  out = with_type(type, [&](auto is) {
    using T = typename decltype(is)::type;
    char* p = out;
    for (size_t i = 0; i < count; ++i) {
      if (i) *p++ = ',';
      if constexpr (std::is_same_v<T, bool>) {
        p = static_cast<const uint8_t*>(values)[i] ? write_word(p, "true", 4) : write_word(p, "false", 5);
      } else {
        p = write_number(p, static_cast<const T*>(values)[i]);
      }
    }
    return p;
  });
  *out++ = ']';
  return out;
}

std::string write_strings(const char* bytes, size_t size, const int64_t* offsets, size_t count,
                          const std::string& what) {
  std::string out;
  out.reserve(size + 3 * count + 2);
  out += '[';
  for (size_t i = 0; i < count; ++i) {
    const int64_t from = offsets[i], to = offsets[i + 1];
    if (from < 0 || to < from || static_cast<uint64_t>(to) > size) {
      throw Error{what + ": the offsets of element " + std::to_string(i) + " are not in order or beyond its bytes"};
    }
    out += i ? ",\"" : "\"";
    const char* end = bytes + to;
    for (const char* p = bytes + from; p != end;) {
      const char* run = p;
      p = skip_plain(p, end);
      out.append(run, p);
      if (p == end) break;
      const auto c = static_cast<unsigned char>(*p);
      if (c < 0x80) {
        escape(&out, c);
        ++p;
        continue;
      }
      const size_t n = character_bytes(p, end);
      if (!n) {
        throw Error{what + ": element " + std::to_string(i) +
                    " is no UTF-8, which JSON strings have to be: ask for it in " + "binary form"};
      }
      out.append(p, n);
      p += n;
    }
    out += '"';
  }
  return out + "]";
}

}  // namespace maas_rt_json
