#include "read.h"

#include <cstring>
#include <limits>

namespace maas_rt_json {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// ---- elements: each reads one at p to its place
// -----------------------------------------------------------------------

template <typename T>
T non_finite(double value) {
  return static_cast<T>(value);
}
template <>
Half non_finite(double value) {
  return {static_cast<uint16_t>(value > 0 ? 0x7C00 : value < 0 ? 0xFC00 : 0x7E00)};
}
template <>
Bfloat non_finite(double value) {
  return {static_cast<uint16_t>(value > 0 ? 0x7F80 : value < 0 ? 0xFF80 : 0x7FC0)};
}

// What JSON's numbers lack, as a string, however it is escaped.
template <typename T>
Reading read_non_finite(const char* p, const char* end, T* value, const char** next) {
  constexpr size_t kLongest = 9;  // "-Infinity"
  char text[6 * kLongest];
  const char* wrong = nullptr;
  *next = skip_string(p, end, &wrong);
  if (!*next || static_cast<size_t>(*next - p) > sizeof text + 2) return Reading::kWrong;
  char* out = text;
  read_string(p, *next, &out, &wrong);
  const std::string word(text, out);
  if (word == "NaN") {
    *value = non_finite<T>(std::numeric_limits<double>::quiet_NaN());
  } else if (word == "Infinity" || word == "-Infinity") {
    const double infinity = std::numeric_limits<double>::infinity();
    *value = non_finite<T>(word[0] == '-' ? -infinity : infinity);
  } else {
    return Reading::kWrong;
  }
  return Reading::kOk;
}

template <typename T>
class Numbers {
 public:
  explicit Numbers(void* out) : out_(static_cast<T*>(out)) {}
  Reading read(const char* p, const char* end, size_t index, const char** next) {
    T value{};
    const Reading reading = read_value(p, end, &value, next);
    if (reading == Reading::kOk && out_) out_[index] = value;
    return reading;
  }

 private:
  static Reading read_value(const char* p, const char* end, T* value, const char** next) {
    if constexpr (std::is_same_v<T, bool>) {
      *next = skip_word(p, end);
      *value = *p == 't';
      return *next && *p != 'n' ? Reading::kOk : Reading::kWrong;
    } else {
      if (!std::numeric_limits<T>::is_integer && *p == '"') {
        if constexpr (!std::numeric_limits<T>::is_integer) return read_non_finite(p, end, value, next);
      }
      return read_number(p, end, value, next);
    }
  }

  T* out_;
};

class Strings {
 public:
  Strings(char* bytes, int64_t* offsets) : bytes_(bytes), out_(bytes), offsets_(offsets) {
    if (offsets_) *offsets_ = 0;
  }
  Reading read(const char* p, const char* end, size_t index, const char** next) {
    const char* wrong = nullptr;
    *next = *p == '"' ? read_string(p, end, &out_, &wrong) : nullptr;
    if (!*next) return Reading::kWrong;
    if (offsets_) offsets_[index + 1] = out_ - bytes_;
    return Reading::kOk;
  }

 private:
  char* const bytes_;
  char* out_;
  int64_t* const offsets_;
};

// ---- lists
// ------------------------------------------------------------------------------------------------------------

template <typename Elements>
class Reader {
 public:
  Reader(const Data& data, Elements elements) : data_(data), end_(data.end), elements_(elements) {}

  void run() {
    const char* p = skip_space(data_.begin, end_);
    if (p == end_ || *p != '[') wrong("\"data\" must be a list, flat or nested in row-major order");
    p = enter(p);
    p = *p == '[' ? nested(p) : flat(p);
    if (p != end_) separator(p);
  }

 private:
  // ---- what is read ----

  // Behind the bracket or comma at p, at what follows.
  const char* enter(const char* p) const {
    p = skip_space(p + 1, end_);
    if (p == end_) truncated();
    return p;
  }

  // All elements, from the first on; returns what is behind the list.
  const char* flat(const char* p) {
    if (*p != ']') p = elements(p, data_.count());
    if (index_ != data_.count()) wrong_count(std::to_string(index_));
    return skip_space(p + 1, end_);
  }

  // The same in lists of lists, as deep as the shape: `level` is that of the innermost that is open.
  const char* nested(const char* p) {
    const size_t last = data_.shape.size() - 1;
    if (data_.shape.size() < 2) misnested("it has lists within a list");
    std::vector<size_t> entries(last + 1);
    for (size_t level = 0;;) {
      // At an entry of the list of `level`, which is a list.
      if (*p != '[') misnested("not a list at element " + std::to_string(index_));
      if (entries[level] == extent(level)) wrong_list(entries[level] + 1, extent(level));
      ++entries[level];
      entries[++level] = 0;
      p = enter(p);
      if (level == last && *p != ']') {
        const size_t before = index_;
        p = elements(p, extent(level));
        entries[level] = index_ - before;
      }
      if (*p != ']') continue;
      // At its end, and those of lists around it that end there too.
      for (;; --level) {
        if (entries[level] != extent(level)) wrong_list(entries[level], extent(level));
        p = skip_space(p + 1, end_);
        if (level == 0) return p;
        if (p == end_) truncated();
        if (*p == ']') continue;
        if (*p != ',') separator(p);
        --level;
        p = enter(p);
        break;
      }
    }
  }

  // At most `limit` elements of one list, from the first on; returns the bracket behind them.
  const char* elements(const char* p, size_t limit) {
    for (size_t n = 0;; ++n) {
      if (*p == '[') misnested("a list at element " + std::to_string(index_));
      if (n == limit) excess(limit);
      const char* next = nullptr;
      const Reading reading = elements_.read(p, end_, index_, &next);
      if (reading != Reading::kOk || (next != end_ && !ends_token(*next))) refuse(p, reading);
      ++index_;
      p = skip_space(next, end_);
      if (p == end_) truncated();
      if (*p == ']') return p;
      if (*p != ',') separator(p);
      p = enter(p);
    }
  }

  size_t extent(size_t level) const { return static_cast<size_t>(data_.shape[level]); }

  // ---- what is wrong ----

  [[noreturn]] void wrong(const std::string& sentence) const { throw Error{data_.what + ": " + sentence}; }

  [[noreturn]] void truncated() const { wrong("\"data\" is not JSON: it ends before its list does"); }

  [[noreturn]] void separator(const char* p) const {
    wrong("\"data\" is not JSON: " + excerpt(p, end_) + " before element " + std::to_string(index_) +
          ", where a comma or the end of a list is expected");
  }

  [[noreturn]] void wrong_count(const std::string& count) const {
    throw Error{data_.what + " has " + count + (count == "1" ? " element" : " elements") + ", its shape " +
                shape_text(data_.shape) + " needs " + std::to_string(data_.count())};
  }

  // More elements than a list may have.
  [[noreturn]] void excess(size_t limit) const {
    if (limit == data_.count() && index_ == limit) wrong_count("more than " + std::to_string(limit));
    wrong_list(limit + 1, limit);
  }

  [[noreturn]] void wrong_list(size_t entries, size_t expected) const {
    misnested("the list " + std::string(entries > expected ? "around" : "that ends before") + " element " +
              std::to_string(index_) +
              (entries > expected ? " has more than " + std::to_string(expected) : " has " + std::to_string(entries)) +
              " and must have " + std::to_string(expected));
  }

  [[noreturn]] void misnested(const std::string& how) const {
    if (mixes()) wrong("\"data\" mixes values and lists at one level");
    wrong("\"data\" is neither flat nor nested as its shape " + shape_text(data_.shape) + " is: " + how);
  }

  // Whether there is a level with lists and with values. Takes a pass over the data, in the case of an error alone.
  bool mixes() const {
    std::vector<unsigned> found;  // of each level: 1 values, 2 lists
    size_t level = 0;
    for (const char* p = data_.begin; (p = skip_space(p, end_)) != end_;) {
      if (found.size() == level) found.push_back(0);
      if (*p == ']') {
        if (level == 0) return false;
        --level;
      } else if (*p == '[') {
        found[level++] |= 2;
      } else if (*p != ',') {
        found[level] |= 1;
        const char* bad = nullptr;
        const char* next = *p == '"' ? skip_string(p, end_, &bad) : p;
        if (!next) return false;
        while (next != end_ && !ends_token(*next)) ++next;
        p = next == p ? p + 1 : next;
        if (found[level] == 3) return true;
        continue;
      }
      if (level < found.size() && found[level] == 3) return true;
      ++p;
    }
    return false;
  }

  [[noreturn]] void refuse(const char* p, Reading reading) const {
    if (is_non_finite_word(p, end_)) wrong(non_finite_sentence(p, end_) + place());
    const std::string token = excerpt(p, end_);
    if (reading == Reading::kTooLarge && skip_number(p, end_)) {
      wrong(token + " does not fit into " + data_.type_name + place());
    }
    const char* bad = nullptr;
    if (*p == '"' && !skip_string(p, end_, &bad)) {
      if (bad == end_) truncated();
      wrong(token + " has what no JSON string has, " + string_fault(bad) + place());
    }
    const bool json = *p == '"' || *p == '{' || skip_number(p, end_) || skip_word(p, end_);
    wrong(token + (json ? std::string(" is no ") + data_.type_name + " value" : " is not JSON") + place());
  }

  std::string place() const { return " (element " + std::to_string(index_) + ")"; }

  const Data& data_;
  const char* const end_;
  Elements elements_;
  size_t index_ = 0;  // of the next element
};

}  // namespace

size_t Data::count() const {
  size_t n = 1;
  for (int64_t extent : shape) n *= static_cast<size_t>(extent);
  return n;
}

void read_tensor(const Data& data, Type type, void* out) {
  with_type(type, [&](auto is) {
    using T = typename decltype(is)::type;
    Reader<Numbers<T>>(data, Numbers<T>(out)).run();
  });
}

void read_strings(const Data& data, char* bytes, int64_t* offsets) {
  Reader<Strings>(data, Strings(bytes, offsets)).run();
}

}  // namespace maas_rt_json
