// JSON (RFC 8259) on the level of characters: white space, strings, the shape of numbers, and words for what is wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace maas_rt_json {

// What is wrong, in one sentence or its end. Its bytes may be no UTF-8, where it cites a body that is none.
struct Error {
  std::string text;
};

// Eight characters at once, and of those the high bits where they are below n; above such a one others may be marked.
constexpr uint64_t kOnes = 0x0101010101010101u, kHighs = 0x8080808080808080u;
inline uint64_t bytes_below(uint64_t w, uint64_t n) { return (w - kOnes * n) & ~w & kHighs; }

inline const char* skip_space(const char* p, const char* end) {
  while (p != end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) ++p;
  return p;
}
inline bool is_digit(char c) { return c >= '0' && c <= '9'; }
// Whether a number or a word may end before this character.
inline bool ends_token(char c) {
  return c == ',' || c == ']' || c == '}' || c == ':' || c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

// The first character of a string that is not plain: a quote, a backslash, a control character, or no ASCII.
const char* skip_plain(const char* p, const char* end);
// Bytes of the character at p, which is no ASCII; 0 where it is none (RFC 3629: shortest form, no surrogates).
size_t character_bytes(const char* p, const char* end);

// Behind the string whose opening quote is at p, or null where it is none: no closing quote, a control character, an
// unknown escape, half of a surrogate pair, bytes that are no UTF-8. `*wrong` is then the place.
const char* skip_string(const char* p, const char* end, const char** wrong);
// The same, and its value in UTF-8 to `out`, which has room for as many bytes as the string has. `*out` is moved on.
const char* read_string(const char* p, const char* end, char** out, const char** wrong);

// What skip_string and read_string found wrong at a place before the end.
const char* string_fault(const char* wrong);

// Behind the number at p; null where there is none.
const char* skip_number(const char* p, const char* end);
// Behind "true", "false" or "null" at p; null where there is none of them.
const char* skip_word(const char* p, const char* end);

// What stands at p, up to the end of its token, cut to a few characters; control characters as \xNN.
std::string excerpt(const char* p, const char* end);
// Whether the token at p is one of the words that JavaScript and Python write for what JSON's numbers lack.
bool is_non_finite_word(const char* p, const char* end);
// What is said of one.
std::string non_finite_sentence(const char* p, const char* end);

}  // namespace maas_rt_json
