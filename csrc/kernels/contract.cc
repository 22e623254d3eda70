// Calls held to their contracts; see contract.h and kernel.h.
#include "kernels/contract.h"

#include <algorithm>
#include <cinttypes>
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/checks.h"

namespace mrt {
namespace {

constexpr DType kDTypes[] = {
#define MRT_DTYPE(constant, code, bits) {code, bits},
    MRT_CONTRACT_DTYPES(MRT_DTYPE)
#undef MRT_DTYPE
};
constexpr size_t kDTypeCount = sizeof(kDTypes) / sizeof(kDTypes[0]);

Status check_type(const Contract& c, const Operand& o, const Tensor& t, const Tensor* in) {
  if ((o.dtypes & (kLikeFirst | kLikeSecond)) != 0) {
    const int like = (o.dtypes & kLikeFirst) != 0 ? 0 : 1;
    if (t.dtype == in[like].dtype) return Status();
    return fail(MRT_ERROR_DTYPE, "%s: %s is %s, expected %s as %s", c.name, o.name, name_of(t.dtype).c_str(),
                name_of(in[like].dtype).c_str(), c.inputs[like].name);
  }
  if (holds(o.dtypes, t.dtype)) return Status();
  return fail(MRT_ERROR_DTYPE, "%s: %s is %s, expected %s", c.name, o.name, name_of(t.dtype).c_str(),
              dtype_names(o.dtypes).c_str());
}

Status check_operand(const Contract& c, const Operand& o, const Tensor& t, const Tensor* in) {
  MRT_TRY(check_tensor(c.name, o.name, t, o.rank));
  return check_type(c, o, t, in);
}

Status check_inputs(const Contract& c, const Tensor* in, int n_in, const Tensor& y) {
  for (int i = 0; i < n_in; ++i) {
    const Operand& o = c.input(static_cast<size_t>(i));
    const Tensor& t = in[i];
    if (t.absent() && !o.is(kOptional))
      return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: %s is absent, but it is needed", c.name, o.name);
    if (t.absent() || o.is(kPacked)) continue;
    MRT_TRY(check_operand(c, o, t, in));
    if (o.is(kBias)) {
      if (y.ndim == 0) return fail(MRT_ERROR_SHAPE, "%s: y has no dimensions, expected at least 1", c.name);
      MRT_TRY(check_extent(c.name, o.name, t, 0, y.shape[y.ndim - 1]));
    }
    if (o.is(kResidual)) MRT_TRY(check_same_shape(c.name, o.name, t, y));
  }
  return Status();
}

Status check_count(const Contract& c, const char* kind, int n, int lo, int hi) {
  if (n >= lo && n <= hi) return Status();
  return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: %d %s, expected %d to %d", c.name, n, kind, lo, hi);
}

// The row of an attribute that the driver asks for; it must have one.
Status row_of(const Attrs& attrs, const char* key, AttributeKind kind, const Attribute** out) {
  *out = attrs.contract().find(key);
  if (*out != nullptr && (*out)->kind == kind) return Status();
  return fail(MRT_ERROR_INTERNAL, "%s: the contract does not state attribute '%s'", attrs.contract().name, key);
}

Status absent(const Attrs& attrs, const Attribute& a) {
  if (!a.is(kNeeded)) return Status();
  return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: attribute '%s' is absent, but it is needed", attrs.contract().name,
              a.name);
}

Status check_length(const Attrs& attrs, const Attribute& a, size_t n) {
  if (n == a.count || (a.is(kListed) && n < a.count)) return Status();
  return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: attribute '%s' has %zu numbers, expected %s%d", attrs.contract().name,
              a.name, n, a.is(kListed) ? "at most " : "", a.count);
}

// What only some numbers of a row are.
std::string steps_of(const Attribute& a) {
  return a.step == 1 ? std::string() : " in steps of " + std::to_string(a.step);
}

Status check_integer(const Attrs& attrs, const Attribute& a, int64_t value) {
  const double v = static_cast<double>(value);
  if (v >= a.lo && v <= a.hi && (a.step == 1 || (value - static_cast<int64_t>(a.lo)) % a.step == 0)) return Status();
  return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: attribute '%s' holds %" PRId64 ", expected a value from %.0f to %.0f%s",
              attrs.contract().name, a.name, value, a.lo, a.hi, steps_of(a).c_str());
}

Status check_number(const Attrs& attrs, const Attribute& a, double value) {
  if (value >= a.lo && value <= a.hi && (a.is(kInfinite) || value - value == 0)) return Status();
  if (a.is(kInfinite) && a.lo == -kNoBound && a.hi == kNoBound) return Status();
  return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: attribute '%s' holds %g, expected a number from %g to %g%s",
              attrs.contract().name, a.name, value, a.lo, a.hi, a.is(kInfinite) ? "" : " that is finite");
}

}  // namespace

bool holds(DTypes set, DType dtype) {
  const size_t bytes = dtype.bytes();
  if ((set & kWhole) != 0) {
    return dtype.bits % 8 == 0 && (bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8);
  }
  for (size_t i = 0; i < kDTypeCount; ++i)
    if (kDTypes[i] == dtype) return (set >> i & 1) != 0;
  return false;
}

std::string dtype_names(DTypes set, const char* before_last) {
  if ((set & kWhole) != 0) return "elements of 8, 16, 32 or 64 bits";
  std::string names;
  for (size_t i = 0; i < kDTypeCount; ++i) {
    if ((set >> i & 1) == 0) continue;
    const bool last = set >> (i + 1) == 0;
    names += (names.empty() ? "" : last ? before_last : ", ") + name_of(kDTypes[i]);
  }
  return names;
}

const Attribute* Contract::find(const char* key) const {
  for (const List& list : attributes)
    for (size_t i = 0; i < list.count; ++i)
      if (std::strcmp(list.rows[i].name, key) == 0) return &list.rows[i];
  return nullptr;
}

int32_t word_of(const char* words, const char* text) {
  const size_t length = std::strlen(text);
  int32_t index = 0;
  for (const char* at = words; length > 0 && *at != '\0'; ++index) {
    const size_t word = std::strcspn(at, " ");
    if (word == length && std::memcmp(at, text, length) == 0) return index;
    at += word;
    at += std::strspn(at, " ");
  }
  return -1;
}

// ---- tensors ----

int packed_input(const Contract& contract) {
  int i = 0;
  while (!contract.inputs[i].is(kPacked)) ++i;
  return i;
}

Status check_weight(const Contract& contract, const Tensor& weight) {
  return check_operand(contract, contract.inputs[packed_input(contract)], weight, nullptr);
}

Status check_call(const Operator& op, const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out) {
  const Contract& c = *op.contract;
  MRT_TRY(check_count(c, "inputs", n_in, c.fewest_inputs(), c.most_inputs()));
  MRT_TRY(check_count(c, "outputs", n_out, c.fewest_outputs(), c.output_count));
  MRT_TRY(check_inputs(c, in, n_in, out[0]));
  for (int i = 0; i < n_out; ++i) MRT_TRY(check_operand(c, c.outputs[i], out[i], in));
  return op.check(params, in, n_in, out, n_out);
}

size_t scratch_bytes(const Operator& op, const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out,
                     int32_t threads) {
  return op.scratch == nullptr ? 0 : op.scratch(params, in, n_in, out, n_out, threads);
}

uint32_t batched_inputs(const Operator& op, const void* params, const Tensor* in, int n_in) {
  uint32_t mask = 0;
  for (int i = 0; i < n_in; ++i) {
    if (!op.contract->input(static_cast<size_t>(i)).is(kBatched)) continue;
    if (i >= 32) return 0;
    mask |= uint32_t{1} << i;
  }
  return mask != 0 && (op.separable == nullptr || op.separable(params, in, n_in)) ? mask : 0;
}

// ---- names ----

const Kernel kPortable[2] = {{Isa::scalar, "scalar", nullptr}, {}};

const void* table_of(const Kernel* rows, Isa isa) {
  if (isa == Isa::reference) return nullptr;
  while (rows->table != nullptr && !allows(isa, rows->isa)) ++rows;
  return rows->table;
}

std::string kernel_name(const Operator& op, const void* params, Isa isa) {
  const Kernel* best = op.kernels;
  while (best[1].name != nullptr && !allows(isa, best->isa)) ++best;
  return std::string(op.contract->name) + "_" + (op.kernel_name != nullptr ? op.kernel_name(params) : best->name);
}

// ---- attributes ----

Status check_keys(const Attrs& attrs) {
  for (size_t i = 0; attrs.key(i) != nullptr; ++i) {
    const Attribute* a = attrs.contract().find(attrs.key(i));
    if ((a == nullptr || a->kind == AttributeKind::hint) && std::strcmp(attrs.key(i), "hint") != 0)
      return fail(MRT_ERROR_VERSION, "%s: there is no attribute '%.64s' in this library; use a newer one",
                  attrs.contract().name, attrs.key(i));
  }
  return Status();
}

Status attr_list(const Attrs& attrs, const char* key, int64_t* out, int32_t* n) {
  const Attribute* a = nullptr;
  MRT_TRY(row_of(attrs, key, AttributeKind::integers, &a));
  const int64_t* values = nullptr;
  size_t count = 0;
  *n = -1;
  if (!attrs.ints(key, &values, &count)) return absent(attrs, *a);
  MRT_TRY(check_length(attrs, *a, count));
  for (size_t i = 0; i < count; ++i) {
    MRT_TRY(check_integer(attrs, *a, values[i]));
    out[i] = values[i];
  }
  *n = static_cast<int32_t>(count);
  return Status();
}

Status attr_ints(const Attrs& attrs, const char* key, int64_t* out) {
  int32_t n = 0;
  MRT_TRY(attr_list(attrs, key, out, &n));
  const Attribute& a = *attrs.contract().find(key);
  for (int i = 0; n < 0 && !a.is(kDerived) && i < a.count; ++i) out[i] = static_cast<int64_t>(a.value);
  return Status();
}

Status attr_numbers(const Attrs& attrs, const char* key, double* out, int32_t* n) {
  const Attribute* a = nullptr;
  MRT_TRY(row_of(attrs, key, AttributeKind::numbers, &a));
  const double* values = nullptr;
  const int64_t* integers = nullptr;
  size_t count = 0;
  *n = -1;
  if (!attrs.floats(key, &values, &count) && !attrs.ints(key, &integers, &count)) return absent(attrs, *a);
  MRT_TRY(check_length(attrs, *a, count));
  for (size_t i = 0; i < count; ++i) {
    const double value = integers != nullptr ? static_cast<double>(integers[i]) : values[i];
    MRT_TRY(check_number(attrs, *a, value));
    out[i] = value;
  }
  *n = static_cast<int32_t>(count);
  return Status();
}

Status attr_float(const Attrs& attrs, const char* key, double* out) {
  int32_t n = 0;
  MRT_TRY(attr_numbers(attrs, key, out, &n));
  const Attribute& a = *attrs.contract().find(key);
  if (n < 0 && !a.is(kDerived)) *out = a.value;
  return Status();
}

Status attr_choice(const Attrs& attrs, const char* key, int32_t* out) {
  const Attribute* a = nullptr;
  MRT_TRY(row_of(attrs, key, AttributeKind::choice, &a));
  *out = 0;
  const char* text = nullptr;
  if (!attrs.text(key, &text) || text == nullptr) return absent(attrs, *a);
  *out = word_of(a->choices, text);
  if (*out >= 0) return Status();
  return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: attribute '%s' is '%.64s', expected one of: %s", attrs.contract().name,
              key, text, a->choices);
}

Status hint_int(const Attrs& attrs, const char* key, int64_t* out) {
  const Attribute* a = nullptr;
  MRT_TRY(row_of(attrs, key, AttributeKind::hint, &a));
  const char* hint = nullptr;
  if (!attrs.text("hint", &hint)) return Status();
  const size_t length = std::strlen(key);
  for (const char* at = hint; *at != '\0';) {
    const size_t word = std::strcspn(at, " ");
    if (word > length && std::strncmp(at, key, length) == 0 && at[length] == '=') {
      char* end = nullptr;
      const long long value = std::strtoll(at + length + 1, &end, 10);  // of text too long for it, the nearest there is
      if (end != at + word || static_cast<double>(value) < a->lo || static_cast<double>(value) > a->hi) {
        return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: the hint says %.*s, expected a number from %.0f to %.0f",
                    attrs.contract().name, static_cast<int>(std::min<size_t>(word, 64)), at, a->lo, a->hi);
      }
      *out = value;
    }
    at += word;
    at += std::strspn(at, " ");
  }
  return Status();
}

}  // namespace mrt
