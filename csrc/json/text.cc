#include "text.h"

#include <cstring>
#include <initializer_list>

namespace maas_rt_json {
namespace {

constexpr size_t kExcerpt = 40;  // bytes of a body in a message

}  // namespace

const char* skip_plain(const char* p, const char* end) {
  while (end - p >= 8) {
    uint64_t w;
    std::memcpy(&w, p, 8);
    if ((w & kHighs) | bytes_below(w, 0x20) | bytes_below(w ^ (kOnes * '"'), 1) | bytes_below(w ^ (kOnes * '\\'), 1)) {
      break;
    }
    p += 8;
  }
  while (p != end && static_cast<unsigned char>(*p) >= 0x20 && static_cast<unsigned char>(*p) < 0x80 && *p != '"' &&
         *p != '\\') {
    ++p;
  }
  return p;
}

size_t character_bytes(const char* p, const char* end) {
  const auto at = [&](ptrdiff_t i) { return i < end - p ? static_cast<unsigned char>(p[i]) : 0u; };
  const auto follows = [&](ptrdiff_t i) { return (at(i) & 0xC0) == 0x80; };
  const unsigned lead = at(0), second = at(1);
  if (lead >= 0xC2 && lead <= 0xDF) return follows(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    const bool shortest = lead != 0xE0 || second >= 0xA0, no_surrogate = lead != 0xED || second < 0xA0;
    return follows(1) && follows(2) && shortest && no_surrogate ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    const bool shortest = lead != 0xF0 || second >= 0x90, in_range = lead != 0xF4 || second < 0x90;
    return follows(1) && follows(2) && follows(3) && shortest && in_range ? 4 : 0;
  }
  return 0;
}

namespace {

// The four hexadecimal digits at p; -1 where they are none.
int read_hex(const char* p, const char* end) {
  if (end - p < 4) return -1;
  int value = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = p[i];
    const char lower = static_cast<char>(c | 0x20);
    const int digit = is_digit(c) ? c - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

// The escape whose backslash is at p. Returns what is behind it; null where it is none.
const char* read_escape(const char* p, const char* end, uint32_t* code) {
  if (end - p < 2) return nullptr;
  switch (p[1]) {
    case '"':
    case '\\':
    case '/':
      *code = static_cast<unsigned char>(p[1]);
      return p + 2;
    case 'b':
      *code = '\b';
      return p + 2;
    case 'f':
      *code = '\f';
      return p + 2;
    case 'n':
      *code = '\n';
      return p + 2;
    case 'r':
      *code = '\r';
      return p + 2;
    case 't':
      *code = '\t';
      return p + 2;
    case 'u':
      break;
    default:
      return nullptr;
  }
  const int first = read_hex(p + 2, end);
  if (first < 0 || (first >= 0xDC00 && first < 0xE000)) return nullptr;
  *code = static_cast<uint32_t>(first);
  if (first < 0xD800 || first >= 0xE000) return p + 6;
  if (end - p < 12 || p[6] != '\\' || p[7] != 'u') return nullptr;
  const int second = read_hex(p + 8, end);
  if (second < 0xDC00 || second >= 0xE000) return nullptr;
  *code = 0x10000u + ((static_cast<uint32_t>(first) - 0xD800u) << 10) + (static_cast<uint32_t>(second) - 0xDC00u);
  return p + 12;
}

char* write_utf8(char* out, uint32_t code) {
  const auto put = [&](uint32_t byte) { *out++ = static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
  return out;
}

template <bool kWrite>
const char* walk_string(const char* p, const char* end, char** out, const char** wrong) {
  ++p;
  for (;;) {
    const char* run = p;
    p = skip_plain(p, end);
    const char* next = nullptr;
    if (p != end && *p == '\\') {
      uint32_t code = 0;
      next = read_escape(p, end, &code);
      if (kWrite && next) {
        std::memcpy(*out, run, static_cast<size_t>(p - run));
        *out = write_utf8(*out + (p - run), code);
      }
    } else if (p != end && (*p == '"' || static_cast<unsigned char>(*p) >= 0x80)) {
      const bool quote = *p == '"';
      const size_t bytes = quote ? 0 : character_bytes(p, end);
      if (quote || bytes) next = p + bytes;
      if (kWrite && next) {
        std::memcpy(*out, run, static_cast<size_t>(next - run));
        *out += next - run;
      }
      if (quote) return p + 1;
    }
    if (!next) {
      *wrong = p;
      return nullptr;
    }
    p = next;
  }
}

const char* skip_token(const char* p, const char* end) {
  if (p != end && *p == '"') {
    for (++p; p != end && *p != '"'; ++p) {
      if (*p == '\\' && end - p > 1) ++p;
    }
    return p == end ? p : p + 1;
  }
  if (p != end && (ends_token(*p) || *p == '[' || *p == '{')) return p + 1;
  while (p != end && !ends_token(*p)) ++p;
  return p;
}

}  // namespace

const char* skip_string(const char* p, const char* end, const char** wrong) {
  return walk_string<false>(p, end, nullptr, wrong);
}

const char* read_string(const char* p, const char* end, char** out, const char** wrong) {
  return walk_string<true>(p, end, out, wrong);
}

const char* string_fault(const char* wrong) {
  if (*wrong == '\\') return "an unknown escape, or half of a surrogate pair";
  return static_cast<unsigned char>(*wrong) < 0x20 ? "a control character" : "bytes that are no UTF-8";
}

const char* skip_number(const char* p, const char* end) {
  const auto digits = [&] {
    const char* from = p;
    while (p != end && is_digit(*p)) ++p;
    return p != from;
  };
  if (p != end && *p == '-') ++p;
  if (p != end && *p == '0') {
    ++p;
  } else if (!digits()) {
    return nullptr;
  }
  if (p != end && *p == '.') {
    ++p;
    if (!digits()) return nullptr;
  }
  if (p != end && (*p == 'e' || *p == 'E')) {
    ++p;
    if (p != end && (*p == '+' || *p == '-')) ++p;
    if (!digits()) return nullptr;
  }
  return p == end || ends_token(*p) ? p : nullptr;
}

const char* skip_word(const char* p, const char* end) {
  for (const char* word : {"true", "false", "null"}) {
    const size_t n = std::strlen(word);
    if (static_cast<size_t>(end - p) < n || std::memcmp(p, word, n) != 0) continue;
    return p + n == end || ends_token(p[n]) ? p + n : nullptr;
  }
  return nullptr;
}

std::string excerpt(const char* p, const char* end) {
  const char* to = skip_token(p, end);
  const bool cut = static_cast<size_t>(to - p) > kExcerpt;
  if (cut) {
    to = p + kExcerpt;
    while (to != p && (static_cast<unsigned char>(*to) & 0xC0) == 0x80) --to;  // between two characters
  }
  std::string text;
  for (; p != to; ++p) {
    const auto c = static_cast<unsigned char>(*p);
    if (c < 0x20 || c == 0x7F) {
      const char* digits = "0123456789abcdef";
      text += {'\\', 'x', digits[c >> 4], digits[c & 15]};
    } else {
      text += *p;
    }
  }
  return cut ? text + "..." : text;
}

bool is_non_finite_word(const char* p, const char* end) {
  constexpr ptrdiff_t kLongest = 9;
  const char* to = skip_token(p, end);
  if (to - p > kLongest) return false;
  const std::string token(p, to);
  return token == "NaN" || token == "Infinity" || token == "-Infinity";
}

std::string non_finite_sentence(const char* p, const char* end) {
  return excerpt(p, end) + " is not JSON: send \"NaN\", \"Infinity\" and \"-Infinity\" as text";
}

}  // namespace maas_rt_json
