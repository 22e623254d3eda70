#include "scan.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "text.h"

namespace maas_rt_json {
namespace {

// What a value is in the protocol.
enum class Role : uint8_t { kOther, kBody, kTensors, kTensor, kData };

struct Key {
  const char* name;
  Role role;  // of its value
};
constexpr Key kRequestKeys[] = {
    {"inputs", Role::kTensors}, {"outputs", Role::kOther}, {"parameters", Role::kOther}, {"id", Role::kOther}};
constexpr Key kResponseKeys[] = {{"outputs", Role::kTensors},
                                 {"parameters", Role::kOther},
                                 {"id", Role::kOther},
                                 {"model_name", Role::kOther},
                                 {"model_version", Role::kOther}};
constexpr Key kTensorKeys[] = {{"data", Role::kData},
                               {"name", Role::kOther},
                               {"shape", Role::kOther},
                               {"datatype", Role::kOther},
                               {"parameters", Role::kOther}};
constexpr size_t kLongestKey = 13;

// A list or object that is open.
struct Level {
  bool object;
  Role role;
  uint8_t seen;  // a bit for each of the role's keys
};

class Scanner {
 public:
  Scanner(Message message, const char* body, size_t size, size_t max_depth, size_t max_rest)
      : message_(message),
        body_(body),
        end_(body + size),
        p_(body),
        copied_(body),
        max_depth_(max_depth),
        max_rest_(max_rest) {}

  Scan run() {
    if (end_ - p_ >= 3 && std::memcmp(p_, "\xEF\xBB\xBF", 3) == 0) wrong("it begins with a byte order mark");
    bool fresh = begin(Role::kBody);
    while (!levels_.empty()) fresh = advance(fresh);
    space();
    if (p_ != end_) unexpected("nothing more");
    copy(end_);
    return std::move(scan_);
  }

 private:
  [[noreturn]] void wrong(const std::string& what) const {
    throw Error{"the body is not valid JSON in UTF-8: " + what};
  }

  [[noreturn]] void unexpected(const char* expected) const {
    if (p_ == end_) wrong(std::string("it ends where ") + expected + " is expected");
    if (is_non_finite_word(p_, end_)) throw Error{non_finite_sentence(p_, end_)};
    wrong("byte " + std::to_string(p_ - body_) + " begins " + excerpt(p_, end_) + " where " + expected +
          " is expected");
  }

  void space() { p_ = skip_space(p_, end_); }
  bool at(char c) const { return p_ != end_ && *p_ == c; }

  // What is cut or read last ends here.
  void copy(const char* to) {
    if (static_cast<size_t>(to - copied_) + scan_.rest.size() >= max_rest_) {
      throw Error{"the body has " + std::to_string(max_rest_) +
                  " bytes of JSON or more beside the data of its tensors, and fewer are read"};
    }
    scan_.rest.append(copied_, to);
    copied_ = to;
  }

  void check_depth(size_t depth) const {
    if (depth <= max_depth_) return;
    wrong("byte " + std::to_string(p_ - body_) + " opens level " + std::to_string(depth) + ", and at most " +
          std::to_string(max_depth_) + " are read");
  }

  // In the list or object that is open last: its end, or its next element, and `fresh` says that there was none yet.
  // Returns whether that element opened a level of its own.
  bool advance(bool fresh) {
    Level& level = levels_.back();
    space();
    if (at(level.object ? '}' : ']')) {
      ++p_;
      levels_.pop_back();
      return false;
    }
    if (!fresh) {
      if (!at(',')) unexpected(level.object ? "',' or '}'" : "',' or ']'");
      ++p_;
      space();
    }
    return level.object ? begin(key(&level)) : begin(level.role == Role::kTensors ? Role::kTensor : Role::kOther);
  }

  // A key and its colon; returns what the value is.
  Role key(Level* level) {
    if (!at('"')) unexpected("a key");
    const char* key = p_;
    string();
    const Role role = meet(level, key);
    space();
    if (!at(':')) unexpected("':'");
    ++p_;
    return role;
  }

  // What the value of the key that begins at `key` and ends at p_ is.
  Role meet(Level* level, const char* key) const {
    switch (level->role) {
      case Role::kTensor:
        return meet(level, key, kTensorKeys);
      case Role::kBody:
        return message_ == Message::kRequest ? meet(level, key, kRequestKeys) : meet(level, key, kResponseKeys);
      default:
        return Role::kOther;
    }
  }

  template <size_t n>
  Role meet(Level* level, const char* key, const Key (&keys)[n]) const {
    char name[6 * kLongestKey + 2];
    if (static_cast<size_t>(p_ - key) > sizeof name) return Role::kOther;
    char* out = name;
    const char* bad = nullptr;
    read_string(key, p_, &out, &bad);
    const std::string text(name, out);
    for (size_t i = 0; i < n; ++i) {
      if (text != keys[i].name) continue;
      if (level->seen >> i & 1) {
        throw Error{std::string("the key \"") + keys[i].name + "\" is given twice in " +
                    (level->role == Role::kBody ? "the body" : tensor())};
      }
      level->seen = static_cast<uint8_t>(level->seen | 1u << i);
      return keys[i].role;
    }
    return Role::kOther;
  }

  // A value: all of it, or what opens it; returns whether it opened a level.
  bool begin(Role role) {
    space();
    if (role == Role::kTensor) ++tensor_;
    if (role == Role::kData) {
      cut();
    } else if (at('{') || at('[')) {
      const bool object = at('{');
      check_depth(levels_.size() + 1);
      levels_.push_back({object, object == (role != Role::kTensors) ? role : Role::kOther, 0});
      ++p_;
      return true;
    } else {
      scalar();
    }
    return false;
  }

  void scalar() {
    if (at('"')) return string();
    const bool number = p_ != end_ && (is_digit(*p_) || *p_ == '-');
    const char* next = number ? skip_number(p_, end_) : skip_word(p_, end_);
    if (!next) unexpected("a value");
    p_ = next;
  }

  void string() {
    const char* bad = nullptr;
    const char* next = skip_string(p_, end_, &bad);
    if (!next) bad_string(bad);
    p_ = next;
  }

  [[noreturn]] void bad_string(const char* bad) const {
    if (bad == end_) wrong("it ends within a string");
    wrong("the string at byte " + std::to_string(p_ - body_) + " has at byte " + std::to_string(bad - body_) +
          " what no string has: " + string_fault(bad));
  }

  // The value of "data": its range is noted and its index written for it.
  void cut() {
    copy(p_);
    const char* begin = p_;
    if (at('[') || at('{')) {  // an object is refused where data are read
      skip_brackets();
    } else {
      scalar();
    }
    scan_.rest += std::to_string(scan_.data.size());
    scan_.data.emplace_back(begin - body_, p_ - body_);
    copied_ = p_;
  }

  void skip_brackets() {
    size_t depth = 0;
    for (;;) {
      p_ = skip_flat(p_, end_);
      if (p_ == end_) wrong("it ends within the \"data\" of " + tensor());
      if (*p_ == '"') {
        string();
        continue;
      }
      if (*p_ == '[' || *p_ == '{') {
        check_depth(levels_.size() + ++depth);
      } else {
        --depth;
      }
      ++p_;
      if (depth == 0) return;
    }
  }

  // Where the tensor at hand stands.
  std::string tensor() const {
    return (message_ == Message::kRequest ? "inputs[" : "outputs[") + std::to_string(tensor_) + "]";
  }

  // The first bracket or quote.
  static const char* skip_flat(const char* p, const char* end) {
    constexpr ptrdiff_t kBlock = 64;
    for (;;) {
      // Short rows end in the next words.
      for (int word = 0; word < 8 && end - p >= 8; ++word, p += 8) {
        if (const char* found = structure_in_word(p)) return found;
      }
      // Blocks without any are left by a loop that compilers turn into vector instructions.
      for (; end - p >= kBlock; p += kBlock) {
        unsigned char any = 0;
        for (ptrdiff_t i = 0; i < kBlock; ++i) any = static_cast<unsigned char>(any | is_structure(p[i]));
        if (any) break;
      }
      if (end - p < kBlock) break;
    }
    while (p != end && !is_structure(*p)) ++p;
    return p;
  }

  static const char* structure_in_word(const char* p) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint64_t w;
    std::memcpy(&w, p, 8);
    const uint64_t square = w & ~(kOnes * kCase);
    const uint64_t found = bytes_below(w ^ (kOnes * '"'), 1) | bytes_below(square ^ (kOnes * '['), 1) |
                           bytes_below(square ^ (kOnes * ']'), 1);
    return found ? p + __builtin_ctzll(found) / 8 : nullptr;
#else
    const char* found = std::find_if(p, p + 8, is_structure);
    return found == p + 8 ? nullptr : found;
#endif
  }

  static constexpr unsigned char kCase = 0x20;  // what '{' and '}' have more than '[' and ']'
  static bool is_structure(char c) {
    const auto square = static_cast<unsigned char>(c & ~kCase);
    return (c == '"') | (square == '[') | (square == ']');
  }

  const Message message_;
  const char* const body_;
  const char* const end_;
  const char* p_;
  const char* copied_;  // up to here the body is in the rest, or cut
  const size_t max_depth_, max_rest_;
  std::vector<Level> levels_;
  ptrdiff_t tensor_ = -1;  // index of the tensor at hand
  Scan scan_;
};

}  // namespace

Scan scan_body(Message message, const char* body, size_t size, size_t max_depth, size_t max_rest) {
  return Scanner(message, body, size, max_depth, max_rest).run();
}

}  // namespace maas_rt_json
