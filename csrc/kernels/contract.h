// What an operator family says about its calls, as data: operands, attributes, packings. It stands once, beside the
// family's code; the library holds every call to it, and mrt_kernels_json gives it to the compiler, the tests and the
// docs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/tensor.h"

namespace mrt {

// ---- types of elements, as a set -----------------------------------------------------------------------------------

// name of the constant, type
#define MRT_CONTRACT_DTYPES(X) \
  X(kBool, MRT_BOOL, 8)        \
  X(kF16, MRT_FLOAT, 16)       \
  X(kBF16, MRT_BFLOAT, 16)     \
  X(kF32, MRT_FLOAT, 32)       \
  X(kF64, MRT_FLOAT, 64)       \
  X(kU8, MRT_UINT, 8)          \
  X(kU16, MRT_UINT, 16)        \
  X(kU32, MRT_UINT, 32)        \
  X(kU64, MRT_UINT, 64)        \
  X(kS8, MRT_INT, 8)           \
  X(kS16, MRT_INT, 16)         \
  X(kS32, MRT_INT, 32)         \
  X(kS64, MRT_INT, 64)

enum class DTypeBit : int {
#define MRT_DTYPE(constant, code, bits) constant,
  MRT_CONTRACT_DTYPES(MRT_DTYPE)
#undef MRT_DTYPE
      count
};

using DTypes = uint16_t;
#define MRT_DTYPE(constant, code, bits) constexpr DTypes constant = 1 << static_cast<int>(DTypeBit::constant);
MRT_CONTRACT_DTYPES(MRT_DTYPE)
#undef MRT_DTYPE
constexpr DTypes kOrdered = (1 << static_cast<int>(DTypeBit::count)) - 1;  // all of these
constexpr DTypes kWhole = 1 << 13;                                         // any of 1, 2, 4 or 8 whole bytes
constexpr DTypes kLikeFirst = 1 << 14, kLikeSecond = 1 << 15;              // that of the first, the second input

// ---- operands ------------------------------------------------------------------------------------------------------

constexpr int kAnyRank = -1;

enum OperandFlag : unsigned {
  kOptional = 1,   // may be absent
  kPacked = 2,     // packed ahead of time from a dense constant, which the rest of the row describes
  kBias = 4,       // added to every line of the first output's columns
  kResidual = 8,   // added to the first output, of its shape
  kBatched = 16,   // has the outputs' batch as its outermost dimension: see Operator::separable
  kRepeated = 32,  // the last input: stands for any number of them
};

struct Operand {
  char name[11] = {};
  int8_t rank;  // or kAnyRank
  DTypes dtypes;
  uint8_t flags;

  constexpr Operand(const char* text, DTypes types, int dimensions, unsigned set = 0)
      : rank(static_cast<int8_t>(dimensions)), dtypes(types), flags(static_cast<uint8_t>(set)) {
    for (size_t i = 0; text[i] != '\0'; ++i) name[i] = text[i];
  }
  constexpr bool is(OperandFlag flag) const { return (flags & flag) != 0; }
};

// ---- attributes ----------------------------------------------------------------------------------------------------

enum class AttributeKind : uint8_t { integers, numbers, choice, hint };

enum AttributeFlag : uint8_t {
  kNeeded = 1,       // no default
  kDerived = 2,      // the default follows from other attributes or from shapes
  kPackingOnly = 4,  // matters to the packing of weights alone
  kInfinite = 8,     // numbers that need not be finite
  kListed = 16,      // any number of them up to `count`
};

constexpr double kNoBound = __builtin_inf();

struct Attribute {
  char name[20] = {};
  AttributeKind kind;
  uint8_t count;  // of integers and numbers
  uint8_t step;   // from one integer that is allowed to the next
  uint8_t flags;
  double lo, hi;        // of each
  double value;         // the default of each
  const char* choices;  // words; the first is the default

  constexpr Attribute(const char* text, AttributeKind k, int n, double low, double high, double by_default,
                      unsigned set, const char* words = nullptr)
      : kind(k),
        count(static_cast<uint8_t>(n)),
        step(1),
        flags(static_cast<uint8_t>(set)),
        lo(low),
        hi(high),
        value(by_default),
        choices(words) {
    for (size_t i = 0; text[i] != '\0'; ++i) name[i] = text[i];
  }
  constexpr bool is(AttributeFlag flag) const { return (flags & flag) != 0; }
  constexpr Attribute with(AttributeFlag flag) const {
    Attribute a = *this;
    a.flags = static_cast<uint8_t>((flag == kDerived ? a.flags & ~kNeeded : a.flags) | flag);
    return a;
  }
  constexpr Attribute in_steps_of(int n) const {
    Attribute a = *this;
    a.step = static_cast<uint8_t>(n);
    return a;
  }
};

// Without a default it is needed.
constexpr Attribute integers(const char* name, int n, double lo, double hi) {
  return {name, AttributeKind::integers, n, lo, hi, 0, kNeeded};
}
constexpr Attribute integers(const char* name, int n, double lo, double hi, double value) {
  return {name, AttributeKind::integers, n, lo, hi, value, 0};
}
constexpr Attribute integer(const char* name, double lo, double hi) { return integers(name, 1, lo, hi); }
constexpr Attribute integer(const char* name, double lo, double hi, double value) {
  return integers(name, 1, lo, hi, value);
}
constexpr Attribute numbers(const char* name, int n, double lo, double hi) {
  return {name, AttributeKind::numbers, n, lo, hi, 0, kNeeded};
}
constexpr Attribute number(const char* name, double value, double lo = -kNoBound, double hi = kNoBound) {
  return {name, AttributeKind::numbers, 1, lo, hi, value, 0};
}
constexpr Attribute choice(const char* name, const char* words) {
  return {name, AttributeKind::choice, 1, 0, 0, 0, 0, words};
}
// A number of the step's hint: a tuned choice that changes no result but for rounding. Its default is the kernel's.
constexpr Attribute hint(const char* name, double lo, double hi) {
  return {name, AttributeKind::hint, 1, lo, hi, 0, kDerived};
}

// ---- the contract --------------------------------------------------------------------------------------------------

struct Contract {
  const char* name;      // "gemm_f32"
  const char* packings;  // words, newest first; empty if it takes no packed weights
  const Operand *inputs, *outputs;
  struct List {
    const Attribute* rows = nullptr;
    size_t count = 0;
  };
  List attributes[6] = {};
  uint8_t input_count, output_count;

  // Attributes in lists, of which families share some.
  template <size_t n, size_t m, size_t... k>
  constexpr Contract(const char* text, const char* packing, const Operand (&in)[n], const Operand (&out)[m],
                     const Attribute (&... lists)[k])
      : name(text),
        packings(packing),
        inputs(in),
        outputs(out),
        input_count(static_cast<uint8_t>(n)),
        output_count(static_cast<uint8_t>(m)) {
    const List given[] = {List{lists, k}..., List{nullptr, 0}};
    for (size_t i = 0; i < sizeof...(k); ++i) attributes[i] = given[i];
  }

  constexpr bool packs() const { return packings[0] != '\0'; }
  constexpr bool repeats() const { return inputs[input_count - 1].is(kRepeated); }
  constexpr const Operand& input(size_t i) const { return inputs[i < input_count ? i : input_count - 1]; }
  // Inputs and outputs up to the fewest must be there; those behind are optional, or repeat.
  int fewest_inputs() const { return fewest(inputs, input_count); }
  int most_inputs() const { return repeats() ? INT32_MAX : input_count; }
  int fewest_outputs() const { return fewest(outputs, output_count); }
  // Where an input stands; -1: there is none of this name.
  constexpr int input_of(const char* text) const {
    for (int i = 0; i < input_count; ++i) {
      size_t at = 0;
      while (text[at] != '\0' && inputs[i].name[at] == text[at]) ++at;
      if (inputs[i].name[at] == text[at]) return i;
    }
    return -1;
  }
  const Attribute* find(const char* key) const;  // null: there is none

 private:
  static int fewest(const Operand* operands, int n) {
    while (n > 0 && operands[n - 1].is(kOptional)) --n;
    return n;
  }
};

// Whether a type is one of the set; of kLikeFirst and kLikeSecond the others are to be asked.
bool holds(DTypes set, DType dtype);
std::string dtype_names(DTypes set, const char* last = " or ");  // "float32, uint8 or int8"
// Which of `words`, parted by blanks, `text` is; -1: none.
int32_t word_of(const char* words, const char* text);

}  // namespace mrt
