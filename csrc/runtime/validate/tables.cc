// The tables of a plan: every index leads somewhere, and constants lie inside the weights section.
#include <string>
#include <unordered_set>

#include "runtime/n_m.h"
#include "runtime/validate/validation.h"

namespace mrt {
namespace {

using namespace plan;

bool known_dtype(u8 code, u8 bits) {
  switch (code) {
    case MRT_INT:
    case MRT_UINT:
      return bits == 2 || bits == 4 || bits == 8 || bits == 16 || bits == 32 || bits == 64;
    case MRT_FLOAT:
      return bits == 16 || bits == 32 || bits == 64;
    case MRT_BFLOAT:
      return bits == 16;
    case MRT_COMPLEX:
      return bits == 64 || bits == 128;
    case MRT_BOOL:
    case MRT_FLOAT8_E4M3FN:
    case MRT_FLOAT8_E4M3FNUZ:
    case MRT_FLOAT8_E5M2:
    case MRT_FLOAT8_E5M2FNUZ:
    case MRT_FLOAT8_E8M0FNU:
      return bits == 8;
    case MRT_FLOAT4_E2M1FN:
      return bits == 4;
    default:
      return false;
  }
}

class Tables {
 public:
  explicit Tables(Validation* v) : v_(*v), plan_(v->plan) {}

  Status run() {
    MRT_TRY(check_symbols());
    MRT_TRY(check_exprs());
    v_.exprs.init(plan_);
    for (size_t i = 0; i < plan_.values.size(); ++i) MRT_TRY(check_value(i));
    for (const Value& v : plan_.values)
      if (v.encoding == Encoding::n_m) MRT_TRY(check_n_m(v));
    MRT_TRY(check_views());
    return check_states();
  }

 private:
  Status check_symbols() {
    MRT_CHECK(plan_.symbols.size() <= kMaxSymbols, "it has %zu symbols, at most %zu are read", plan_.symbols.size(),
              kMaxSymbols);
    std::unordered_set<std::string> names;
    for (const Symbol& s : plan_.symbols) {
      MRT_CHECK(!s.name.empty() && names.insert(s.name).second, "a symbol has no name or one that occurs twice");
      MRT_CHECK(s.multiple >= 1 && (s.max == -1 || s.max >= s.min), "the bounds of symbol '%s' contradict each other",
                s.name.c_str());
    }
    return Status();
  }

  Status check_exprs() {
    MRT_CHECK(plan_.exprs.size() <= kMaxExprs, "it has %zu expressions, at most %zu are read", plan_.exprs.size(),
              kMaxExprs);
    for (size_t e = 0; e < plan_.exprs.size(); ++e) {
      const Expr& x = plan_.exprs[e];
      const i64 before = static_cast<i64>(e);
      if (x.op == ExprOp::constant) continue;
      if (x.op == ExprOp::symbol) {
        MRT_CHECK(x.a >= 0 && x.a < static_cast<i64>(plan_.symbols.size()), "expression %zu names no symbol", e);
        continue;
      }
      const bool unary = x.op == ExprOp::logical_not;
      MRT_CHECK(x.a >= 0 && x.a < before && (unary || (x.b >= 0 && x.b < before)),
                "expression %zu uses one that does not come before it", e);
    }
    return Status();
  }

  Status check_value(size_t i) {
    const Value& v = plan_.values[i];
    const char* name = v.name.c_str();
    if (v.kind != ValueKind::tensor && v.kind != ValueKind::state)
      return fail(MRT_ERROR_VERSION, "value '%s' is of kind '%s', and this runtime runs tensors only; use a newer one",
                  name, name_of(v.kind));
    const bool n_m = v.encoding == Encoding::n_m && v.storage == Storage::constant;
    if (v.encoding != Encoding::dense && !n_m)
      return fail(MRT_ERROR_VERSION, "value '%s' has encoding '%s', which this runtime does not run; use a newer one",
                  name, name_of(v.encoding));
    if (v.device != DeviceKind::cpu)
      return fail(MRT_ERROR_TARGET, "value '%s' lives on device '%s', this runtime has only the CPU", name,
                  name_of(v.device));
    MRT_CHECK(known_dtype(v.dtype_code, v.dtype_bits), "value '%s' has the unknown dtype code %d with %d bits", name,
              v.dtype_code, v.dtype_bits);
    MRT_CHECK(v.dims.size() <= MRT_MAX_RANK, "value '%s' has %zu dimensions, at most %d are allowed", name,
              v.dims.size(), MRT_MAX_RANK);
    for (const u32 e : v.dims) MRT_CHECK(e < plan_.exprs.size(), "a dimension of value '%s' is no expression", name);
    switch (v.storage) {
      case Storage::constant:
        return check_constant(v);
      case Storage::view:
        MRT_CHECK(v.base < plan_.values.size() && v.base != i, "view '%s' has no base", name);
        MRT_CHECK(v.offset >= 0 && v.offset < static_cast<i64>(plan_.exprs.size()),
                  "the offset of view '%s' is no expression", name);
        return Status();
      case Storage::state:
        MRT_CHECK(v.base < plan_.states.size(), "value '%s' names no state", name);
        return fixed_bytes(v_, v, nullptr);
      case Storage::seed:
        return check_seed(v);
      case Storage::arena:
      case Storage::input:
        return Status();
    }
    return Status();
  }

  Status check_seed(const Value& v) {
    i64 extent = 0;
    MRT_CHECK(v.dtype_code == MRT_UINT && v.dtype_bits == 64 && v.dims.size() == 1 &&
                  v_.exprs.constant(v.dims[0], &extent) && extent == 1,
              "the seed '%s' is not uint64 of shape [1]", v.name.c_str());
    MRT_CHECK(!has_seed_, "it has a second seed, '%s'", v.name.c_str());
    has_seed_ = true;
    return Status();
  }

  Status check_constant(const Value& v) {
    const char* name = v.name.c_str();
    MRT_CHECK(v.offset >= 0 && v.bytes >= 0 && static_cast<uint64_t>(v.offset) <= v_.weights_size &&
                  static_cast<uint64_t>(v.bytes) <= v_.weights_size - static_cast<uint64_t>(v.offset),
              "constant '%s' lies outside the weights section", name);
    const i64 alignment = static_cast<i64>(DType{v.dtype_code, v.dtype_bits}.alignment());
    MRT_CHECK(v.offset % alignment == 0, "constant '%s' is not aligned to its elements", name);
    return fixed_bytes(v_, v, nullptr);
  }

  // That what is stored belongs to the dense tensor, and that all of it is there.
  Status check_n_m(const Value& v) {
    const char* name = v.name.c_str();
    MRT_CHECK(v.base < plan_.values.size(), "the indices of '%s' are no value", name);
    const Value& indices = plan_.values[v.base];
    const int bits = indices.dtype_bits;
    MRT_CHECK(indices.storage == Storage::constant && indices.encoding == Encoding::dense &&
                  indices.dtype_code == MRT_UINT && (bits == 2 || bits == 4) &&
                  (v.dtype_bits == 8 || v.dtype_bits == 16 || v.dtype_bits == 32),
              "'%s' or its indices are of a type that is not stored N:M", name);
    NmLayout layout;
    MRT_CHECK(n_m_layout(v_.exprs, v, indices, &layout), "the extents of '%s' and of its indices do not fit", name);
    MRT_CHECK(v.bytes == layout.count() * (v.dtype_bits / 8) && indices.bytes == layout.index_bytes(),
              "'%s' or its indices have another size than their extents", name);
    return Status();
  }

  // Views must lead to a value that is not a view; `v_.root` is that value.
  Status check_views() {
    const size_t n = plan_.values.size();
    v_.root.assign(n, 0);
    std::vector<u8> state(n, 0);  // 1: on the path, 2: done
    std::vector<u32> path;
    for (size_t i = 0; i < n; ++i) {
      u32 at = static_cast<u32>(i);
      path.clear();
      while (state[at] == 0 && plan_.values[at].storage == Storage::view) {
        state[at] = 1;
        path.push_back(at);
        at = plan_.values[at].base;
      }
      MRT_CHECK(state[at] != 1, "view '%s' is its own base", plan_.values[i].name.c_str());
      if (state[at] == 0) {
        v_.root[at] = at;
        state[at] = 2;
      }
      for (const u32 v : path) {
        v_.root[v] = v_.root[at];
        state[v] = 2;
      }
    }
    return Status();
  }

  Status check_states() {
    std::unordered_set<std::string> names;
    for (size_t i = 0; i < plan_.states.size(); ++i) {
      const State& s = plan_.states[i];
      const char* name = s.name.c_str();
      MRT_CHECK(!s.name.empty() && names.insert(s.name).second, "a state has no name or one that occurs twice");
      MRT_CHECK(s.value < plan_.values.size(), "state '%s' has no value", name);
      const Value& v = plan_.values[s.value];
      MRT_CHECK(v.storage == Storage::state && v.base == i, "state '%s' and its value disagree", name);
      if (s.init == -1) continue;
      MRT_CHECK(s.init >= 0 && s.init < static_cast<i64>(plan_.values.size()), "state '%s' has no initial value", name);
      const Value& init = plan_.values[static_cast<size_t>(s.init)];
      i64 want = 0, have = 0;
      MRT_TRY(fixed_bytes(v_, v, &want));
      MRT_CHECK(init.storage == Storage::constant && fixed_bytes(v_, init, &have).ok() && have == want &&
                    init.bytes >= have && init.dtype_code == v.dtype_code && init.dtype_bits == v.dtype_bits,
                "the initial value of state '%s' is not a constant of its size and dtype", name);
    }
    for (const Value& v : plan_.values)
      if (v.storage == Storage::state)
        MRT_CHECK(&plan_.values[plan_.states[v.base].value] == &v,
                  "value '%s' is not the one that stands for its state", v.name.c_str());
    return Status();
  }

  Validation& v_;
  const Plan& plan_;
  bool has_seed_ = false;
};

}  // namespace

Status check_tables(Validation* v) { return Tables(v).run(); }

Status fixed_bytes(const Validation& v, const plan::Value& value, int64_t* out) {
  int64_t bytes = (value.dtype_bits + 7) / 8;
  for (const u32 e : value.dims) {
    int64_t extent = 0;
    MRT_CHECK(
        v.exprs.constant(e, &extent) && extent >= 0 && checked_mul(bytes, extent, &bytes) && bytes <= kMaxTensorBytes,
        "value '%s' is a constant or a state and needs fixed dimensions of a sensible size", value.name.c_str());
  }
  if (out) *out = bytes;
  return Status();
}

bool holds_its_shape(const Validation& v, const plan::Value& value) {
  int64_t needed = 0;
  return fixed_bytes(v, value, &needed).ok() && value.bytes >= needed;
}

}  // namespace mrt
