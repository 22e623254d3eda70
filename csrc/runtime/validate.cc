#include "runtime/validate.h"

#include <string>
#include <unordered_set>
#include <vector>

#include "kernels/kernel.h"
#include "runtime/attrs.h"
#include "runtime/expr.h"

namespace mrt {
namespace {

using namespace plan;

#define MRT_CHECK(condition, ...)                                                         \
  do {                                                                                    \
    if (!(condition)) return fail(MRT_ERROR_FORMAT, "the plan is damaged: " __VA_ARGS__); \
  } while (0)

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

class Validator {
 public:
  Validator(const Plan& plan, size_t weights_size) : plan_(plan), weights_size_(weights_size) {}

  Status run() {
    MRT_TRY(check_symbols());
    MRT_TRY(check_exprs());
    exprs_.init(plan_);
    MRT_TRY(check_values());
    MRT_TRY(check_states());
    MRT_TRY(check_blocks());
    return check_entries();
  }

 private:
  // ---- tables ----

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

  Status check_values() {
    for (size_t i = 0; i < plan_.values.size(); ++i) MRT_TRY(check_value(i));
    return check_views();
  }

  Status check_value(size_t i) {
    const Value& v = plan_.values[i];
    const char* name = v.name.c_str();
    if (v.kind != ValueKind::tensor && v.kind != ValueKind::state)
      return fail(MRT_ERROR_VERSION, "value '%s' is of kind '%s', and this runtime runs tensors only; use a newer one",
                  name, name_of(v.kind));
    if (v.encoding != Encoding::dense)
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
        return fixed_bytes(v, nullptr);
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
                  exprs_.constant(v.dims[0], &extent) && extent == 1,
              "the seed '%s' is not uint64 of shape [1]", v.name.c_str());
    MRT_CHECK(!has_seed_, "it has a second seed, '%s'", v.name.c_str());
    has_seed_ = true;
    return Status();
  }

  // Bytes of a value whose dims are constants.
  Status fixed_bytes(const Value& v, i64* out) {
    i64 bytes = (v.dtype_bits + 7) / 8;
    for (const u32 e : v.dims) {
      i64 extent = 0;
      MRT_CHECK(
          exprs_.constant(e, &extent) && extent >= 0 && checked_mul(bytes, extent, &bytes) && bytes <= kMaxTensorBytes,
          "value '%s' is a constant or a state and needs fixed dimensions of a sensible size", v.name.c_str());
    }
    if (out) *out = bytes;
    return Status();
  }

  Status check_constant(const Value& v) {
    const char* name = v.name.c_str();
    MRT_CHECK(v.offset >= 0 && v.bytes >= 0 && static_cast<u64>(v.offset) <= weights_size_ &&
                  static_cast<u64>(v.bytes) <= weights_size_ - static_cast<u64>(v.offset),
              "constant '%s' lies outside the weights section", name);
    const i64 element = (v.dtype_bits + 7) / 8;
    MRT_CHECK(v.offset % (element < 8 ? element : 8) == 0, "constant '%s' is not aligned to its elements", name);
    return fixed_bytes(v, nullptr);
  }

  // Whether a constant holds what its shape says; packed weights need not.
  bool holds_its_shape(const Value& v) {
    i64 needed = 0;
    return fixed_bytes(v, &needed).ok() && v.bytes >= needed;
  }

  // Views must lead to a value that is not a view; `root_` is that value.
  Status check_views() {
    const size_t n = plan_.values.size();
    root_.assign(n, 0);
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
        root_[at] = at;
        state[at] = 2;
      }
      for (const u32 v : path) {
        root_[v] = root_[at];
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
      MRT_TRY(fixed_bytes(v, &want));
      MRT_CHECK(init.storage == Storage::constant && fixed_bytes(init, &have).ok() && have == want &&
                    init.bytes >= have && init.dtype_code == v.dtype_code && init.dtype_bits == v.dtype_bits,
                "the initial value of state '%s' is not a constant of its size and dtype", name);
    }
    for (const Value& v : plan_.values)
      if (v.storage == Storage::state)
        MRT_CHECK(&plan_.values[plan_.states[v.base].value] == &v,
                  "value '%s' is not the one that stands for its state", v.name.c_str());
    return Status();
  }

  // ---- steps ----

  Status check_blocks() {
    // A block has one user at most; with entries as roots that makes the nesting a forest.
    used_.assign(plan_.blocks.size(), 0);
    for (const Block& block : plan_.blocks) {
      for (const u32 v : block.params)
        MRT_CHECK(v < plan_.values.size() && plan_.values[v].storage == Storage::arena,
                  "a parameter of block '%s' is not an arena value", block.name.c_str());
      for (const u32 v : block.results)
        MRT_CHECK(v < plan_.values.size(), "a result of block '%s' is no value", block.name.c_str());
    }
    // After all blocks' parameters and results, which steps that run a block look at.
    for (const Block& block : plan_.blocks)
      for (const Step& step : block.steps) MRT_TRY(check_step(step));
    return Status();
  }

  Status check_step(const Step& step) {
    const char* name = step.name.c_str();
    for (const Arg& a : step.args) {
      if (a.kind == ArgKind::value)
        MRT_CHECK(a.index < plan_.values.size(), "an argument of step '%s' is no value", name);
      if (a.kind == ArgKind::expression)
        MRT_CHECK(a.index < plan_.exprs.size(), "an argument of step '%s' is no expression", name);
    }
    for (const u32 v : step.outs) {
      MRT_CHECK(v < plan_.values.size(), "an output of step '%s' is no value", name);
      const Storage storage = plan_.values[root_[v]].storage;
      MRT_CHECK(storage == Storage::arena || storage == Storage::state,
                "step '%s' writes into '%s', which is an input, a constant or the seed", name,
                plan_.values[v].name.c_str());
    }
    for (const u32 s : step.binds)
      MRT_CHECK(s < plan_.symbols.size(), "step '%s' binds a symbol that does not exist", name);
    for (const u32 b : step.blocks) {
      MRT_CHECK(b < plan_.blocks.size(), "step '%s' runs a block that does not exist", name);
      MRT_CHECK(++used_[b] == 1, "block '%s' is run by two steps", plan_.blocks[b].name.c_str());
    }
    if (step.queue != 0)
      return fail(MRT_ERROR_TARGET, "step '%s' is for queue %d, this runtime has only queue 0 (the CPU)", name,
                  step.queue);
    if (step.kind == StepKind::launch)
      return fail(MRT_ERROR_VERSION, "step '%s' is of kind '%s', which this runtime does not run; use a newer one",
                  name, name_of(step.kind));
    return check_arity(step);
  }

  bool arg_is_value(const Step& step, size_t i) { return i < step.args.size() && step.args[i].kind == ArgKind::value; }
  bool scalar_of(const Step& step, size_t i, u8 code, u8 bits) {
    if (!arg_is_value(step, i)) return false;
    const Value& v = plan_.values[step.args[i].index];
    return v.dtype_code == code && v.dtype_bits == bits;
  }

  Status check_arity(const Step& step) {
    const char* name = step.name.c_str();
    const StepKind kind = step.kind;
    const bool nests = kind == StepKind::branch || kind == StepKind::loop;
    MRT_CHECK(nests || step.blocks.empty(), "step '%s' has blocks but is neither if nor loop", name);
    MRT_CHECK(kind == StepKind::bind || nests || step.binds.empty(), "step '%s' cannot bind symbols", name);
    switch (kind) {
      case StepKind::kernel:
        return check_kernel(step);
      case StepKind::code:
        MRT_CHECK(!step.target.empty(), "code step '%s' names no function", name);
        for (const Arg& a : step.args)
          MRT_CHECK(a.kind != ArgKind::absent, "code step '%s' has an absent argument", name);
        return Status();
      case StepKind::copy:
        MRT_CHECK(step.args.size() == 1 && arg_is_value(step, 0) && step.outs.size() == 1,
                  "copy step '%s' needs one value and one output", name);
        return same_dtype(step, step.args[0].index, step.outs[0]);
      case StepKind::bind: {
        MRT_CHECK(step.args.size() == 1 && arg_is_value(step, 0) && step.outs.empty() && !step.binds.empty(),
                  "bind step '%s' needs one value and at least one symbol", name);
        const Value& v = plan_.values[step.args[0].index];
        const u8 code = v.dtype_code;
        MRT_CHECK((code == MRT_INT || code == MRT_UINT || code == MRT_BOOL) && v.dtype_bits >= 8,
                  "bind step '%s' needs an integer tensor", name);
        return Status();
      }
      case StepKind::shape: {
        MRT_CHECK(step.outs.size() == 1, "shape step '%s' needs one output", name);
        const Value& v = plan_.values[step.outs[0]];
        MRT_CHECK(v.dtype_code == MRT_INT && v.dtype_bits == 64 && v.dims.size() <= 1,
                  "the output of shape step '%s' is not int64 of rank 0 or 1", name);
        for (const Arg& a : step.args)
          MRT_CHECK(a.kind == ArgKind::expression, "shape step '%s' takes expressions only", name);
        return Status();
      }
      case StepKind::branch:
        return check_branch(step);
      case StepKind::loop:
        return check_loop(step);
      case StepKind::launch:
        break;
    }
    return Status();
  }

  Status same_dtype(const Step& step, u32 a, u32 b) {
    const Value &x = plan_.values[a], &y = plan_.values[b];
    MRT_CHECK(x.dtype_code == y.dtype_code && x.dtype_bits == y.dtype_bits,
              "step '%s' copies '%s' to '%s' of another dtype", step.name.c_str(), x.name.c_str(), y.name.c_str());
    return Status();
  }

  Status check_kernel(const Step& step) {
    const char* name = step.name.c_str();
    const Operator* op = find_operator(step.target.c_str());
    if (!op)
      return fail(MRT_ERROR_VERSION,
                  "step '%s' needs the kernel contract '%s', which this runtime does not have; use a "
                  "newer one",
                  name, step.target.c_str());
    const Contract& c = *op->contract;
    if (c.packs() ? word_of(c.packings, step.packing.c_str()) < 0 : !step.packing.empty())
      return fail(MRT_ERROR_VERSION,
                  "step '%s' (%s) has weights in packing '%s', which this runtime does not know; compile the "
                  "model with the maas_rt that runs it",
                  name, c.name, step.packing.c_str());
    const auto within = [](size_t n, int lo, int hi) {
      return n >= static_cast<size_t>(lo) && n <= static_cast<size_t>(hi);
    };
    MRT_CHECK(within(step.args.size(), c.fewest_inputs(), c.most_inputs()),
              "kernel step '%s' (%s) has %zu arguments, expected %d to %d", name, c.name, step.args.size(),
              c.fewest_inputs(), c.most_inputs());
    MRT_CHECK(within(step.outs.size(), c.fewest_outputs(), c.output_count),
              "kernel step '%s' (%s) has %zu outputs, expected %d to %d", name, c.name, step.outs.size(),
              c.fewest_outputs(), c.output_count);
    for (size_t i = 0; i < step.args.size(); ++i) {
      const Arg& a = step.args[i];
      MRT_CHECK(c.input(i).is(kOptional) || a.kind != ArgKind::absent,
                "argument %zu (%s) of kernel step '%s' (%s) is absent, but it is needed", i, c.input(i).name, name,
                c.name);
      MRT_CHECK(a.kind != ArgKind::expression, "kernel step '%s' has an expression as argument", name);
      if (a.kind != ArgKind::value) continue;
      const Value& v = plan_.values[a.index];
      const DType dtype{v.dtype_code, v.dtype_bits};
      MRT_CHECK(!c.input(i).is(kPacked) || v.storage == Storage::constant,
                "the packed weight of step '%s' is not a constant", name);
      MRT_CHECK(c.input(i).is(kPacked) || holds(c.input(i).dtypes, dtype),
                "argument %zu (%s) of kernel step '%s' (%s) is %s, expected %s", i, c.input(i).name, name, c.name,
                name_of(dtype).c_str(), dtype_names(c.input(i).dtypes).c_str());
    }
    return Status();
  }

  Status check_branch(const Step& step) {
    const char* name = step.name.c_str();
    MRT_CHECK(step.args.size() == 1 && scalar_of(step, 0, MRT_BOOL, 8) && step.blocks.size() == 2,
              "if step '%s' needs one bool and two blocks", name);
    for (const u32 b : step.blocks) {
      const Block& block = plan_.blocks[b];
      MRT_CHECK(block.params.empty() && block.results.size() == step.outs.size(),
                "block '%s' does not return what if step '%s' defines", block.name.c_str(), name);
      for (size_t i = 0; i < step.outs.size(); ++i) MRT_TRY(same_dtype(step, block.results[i], step.outs[i]));
    }
    return Status();
  }

  Status check_loop(const Step& step) {
    const char* name = step.name.c_str();
    MRT_CHECK(step.args.size() >= 2 && step.blocks.size() == 1, "loop step '%s' needs two arguments and one block",
              name);
    const bool absent0 = step.args[0].kind == ArgKind::absent;
    const bool absent1 = step.args[1].kind == ArgKind::absent;
    MRT_CHECK(absent0 || scalar_of(step, 0, MRT_BOOL, 8), "the condition of loop step '%s' is not a bool", name);
    MRT_CHECK(absent1 || scalar_of(step, 1, MRT_INT, 64), "the trip count of loop step '%s' is not int64", name);
    const Block& body = plan_.blocks[step.blocks[0]];
    const size_t carried = step.args.size() - 2;
    MRT_CHECK(body.params.size() == carried + 1 && body.results.size() >= carried + 1 &&
                  step.outs.size() == body.results.size() - 1,
              "loop step '%s' and its body disagree on the number of values", name);
    const auto is_scalar = [&](u32 v, u8 code, u8 bits) {
      return plan_.values[v].dtype_code == code && plan_.values[v].dtype_bits == bits;
    };
    MRT_CHECK(is_scalar(body.params[0], MRT_INT, 64) && is_scalar(body.results[0], MRT_BOOL, 8),
              "the body of loop step '%s' needs an int64 iteration number and a bool condition", name);
    for (size_t i = 0; i < carried; ++i) {
      MRT_CHECK(arg_is_value(step, i + 2), "a carried value of loop step '%s' has no start", name);
      MRT_TRY(same_dtype(step, step.args[i + 2].index, body.params[i + 1]));
      MRT_TRY(same_dtype(step, body.results[i + 1], body.params[i + 1]));
      MRT_TRY(same_dtype(step, body.params[i + 1], step.outs[i]));
    }
    MRT_TRY(check_extents(step, body, carried));
    for (size_t i = carried; i < step.outs.size(); ++i) {
      MRT_TRY(same_dtype(step, body.results[i + 1], step.outs[i]));
      MRT_CHECK(plan_.values[step.outs[i]].dims.size() == plan_.values[body.results[i + 1]].dims.size() + 1 &&
                    plan_.values[step.outs[i]].storage == Storage::arena,
                "scan output '%s' of loop step '%s' has not one dimension more than a slice",
                plan_.values[step.outs[i]].name.c_str(), name);
    }
    return Status();
  }

  // The extents that iterations may change: each has a symbol; one more symbol may take the number of iterations.
  Status check_extents(const Step& step, const Block& body, size_t carried) {
    const i64* pairs = nullptr;
    size_t n = 0;
    StepAttrs(step).ints("extents", &pairs, &n);
    MRT_CHECK(n % 2 == 0 && n / 2 <= step.binds.size() && step.binds.size() - n / 2 <= 1,
              "loop step '%s' does not bind one symbol for each of its extents", step.name.c_str());
    for (size_t i = 0; i < n; i += 2) {
      const bool known = pairs[i] >= 0 && static_cast<u64>(pairs[i]) < carried && pairs[i + 1] >= 0;
      MRT_CHECK(known, "an extent of loop step '%s' is of no carried value", step.name.c_str());
      const size_t k = static_cast<size_t>(pairs[i]);
      for (const u32 v : {step.args[k + 2].index, body.params[k + 1], body.results[k + 1], step.outs[k]})
        MRT_CHECK(static_cast<u64>(pairs[i + 1]) < plan_.values[v].dims.size(),
                  "an extent of loop step '%s' is of no axis of '%s'", step.name.c_str(), plan_.values[v].name.c_str());
    }
    return Status();
  }

  // ---- entries: definitions before uses ----

  Status check_entries() {
    MRT_CHECK(!plan_.entries.empty() && plan_.entries.size() <= kMaxEntries,
              "it has %zu entry points, expected 1 to %zu", plan_.entries.size(), kMaxEntries);
    std::unordered_set<std::string> names;
    for (const Entry& entry : plan_.entries) {
      MRT_CHECK(!entry.name.empty() && names.insert(entry.name).second,
                "an entry has no name or one that occurs twice");
      MRT_TRY(check_entry(entry));
    }
    return Status();
  }

  Status check_entry(const Entry& entry) {
    const char* name = entry.name.c_str();
    MRT_CHECK(entry.block < plan_.blocks.size() && used_[entry.block] == 0, "entry '%s' has no block of its own", name);
    MRT_CHECK(plan_.blocks[entry.block].params.empty(), "the block of entry '%s' has parameters", name);
    defined_.assign(plan_.values.size(), 0);
    for (const std::vector<u32>* list : {&entry.reads, &entry.writes})
      for (const u32 s : *list) {
        MRT_CHECK(s < plan_.states.size(), "entry '%s' uses a state that does not exist", name);
        defined_[plan_.states[s].value] = 1;
      }
    for (size_t i = 0; i < plan_.values.size(); ++i)
      if (plan_.values[i].storage == Storage::constant || plan_.values[i].storage == Storage::seed) defined_[i] = 1;
    symbols_.assign(plan_.symbols.size(), 0);
    std::unordered_set<std::string> input_names;
    for (const u32 v : entry.inputs) {
      MRT_CHECK(v < plan_.values.size() && plan_.values[v].storage == Storage::input && !defined_[v],
                "an input of entry '%s' is no input value or occurs twice", name);
      MRT_CHECK(input_names.insert(plan_.values[v].name).second, "two inputs of entry '%s' are called '%s'", name,
                plan_.values[v].name.c_str());
      defined_[v] = 1;
      for (const u32 e : plan_.values[v].dims) {
        u32 s = 0;
        i64 scale = 0, offset = 0;
        if (exprs_.linear(e, &s, &scale, &offset)) symbols_[s] = 1;
      }
    }
    from_inputs_ = symbols_;
    const std::vector<u32> missing = unbound_symbols();
    for (const u32 v : entry.inputs)
      for (const u32 e : plan_.values[v].dims) MRT_TRY(check_bound(missing, e, "input", plan_.values[v].name.c_str()));
    for (const Check& check : entry.checks) {
      MRT_CHECK(check.lhs < plan_.exprs.size() && check.rhs < plan_.exprs.size(),
                "a check of entry '%s' is no expression", name);
      MRT_TRY(check_bound(missing, check.lhs, "a check of entry", name));
      MRT_TRY(check_bound(missing, check.rhs, "a check of entry", name));
    }
    touched_.assign(plan_.values.size(), 0);
    MRT_TRY(check_flow(plan_.blocks[entry.block], 0));
    for (const u32 v : entry.outputs) {
      MRT_CHECK(v < plan_.values.size(), "an output of entry '%s' is no value", name);
      MRT_TRY(check_read(v, "the end of entry", name));
    }
    return check_used();
  }

  // For each expression: 1 + a symbol in it that has no value by now, or 0.
  std::vector<u32> unbound_symbols() const {
    std::vector<u32> missing(plan_.exprs.size(), 0);
    for (size_t e = 0; e < missing.size(); ++e) {
      const Expr& x = plan_.exprs[e];
      const ExprOp op = x.op;
      if (op == ExprOp::constant) continue;
      const size_t a = static_cast<size_t>(x.a);
      if (op == ExprOp::symbol)
        missing[e] = symbols_[a] ? 0 : static_cast<u32>(a) + 1;
      else
        missing[e] = missing[a] || op == ExprOp::logical_not ? missing[a] : missing[static_cast<size_t>(x.b)];
    }
    return missing;
  }

  Status check_bound(const std::vector<u32>& missing, u32 e, const char* what, const char* name) const {
    MRT_CHECK(missing[e] == 0, "%s '%s' uses symbol '%s', which neither an input nor a step gives a value", what, name,
              plan_.symbols[missing[e] - 1].name.c_str());
    return Status();
  }

  // All that the entry's steps used has symbols that the inputs or some step bind; whether the step came before is seen
  // when it runs.
  Status check_used() const {
    const std::vector<u32> missing = unbound_symbols();
    for (size_t v = 0; v < plan_.values.size(); ++v) {
      if (!touched_[v]) continue;
      const Value& value = plan_.values[v];
      for (const u32 e : value.dims) MRT_TRY(check_bound(missing, e, "value", value.name.c_str()));
      if (value.storage == Storage::view)
        MRT_TRY(check_bound(missing, static_cast<u32>(value.offset), "view", value.name.c_str()));
    }
    return Status();
  }

  bool is_defined(u32 v) {
    while (!defined_[v] && plan_.values[v].storage == Storage::view) v = plan_.values[v].base;
    return defined_[v] != 0;
  }

  // A constant that is smaller than its shape may only be read as a packed weight.
  Status check_read(u32 v, const char* what, const char* name, bool packed = false) {
    MRT_CHECK(is_defined(v), "%s '%s' reads '%s' before it is defined", what, name, plan_.values[v].name.c_str());
    touched_[v] = touched_[root_[v]] = 1;
    const Value& root = plan_.values[root_[v]];
    if (!packed && root.storage == Storage::constant)
      MRT_CHECK(holds_its_shape(root), "constant '%s' is smaller than its shape, and %s '%s' does not take it packed",
                root.name.c_str(), what, name);
    return Status();
  }

  // Depth is bounded, so this may recurse.
  Status check_flow(const Block& block, int depth) {
    MRT_CHECK(depth < kMaxBlockDepth, "blocks are nested more than %d deep", kMaxBlockDepth);
    std::vector<u32> mine;
    for (const u32 v : block.params) {
      MRT_CHECK(!defined_[v], "parameter '%s' of block '%s' is already defined", plan_.values[v].name.c_str(),
                block.name.c_str());
      defined_[v] = 1;
      mine.push_back(v);
    }
    for (const Step& step : block.steps) MRT_TRY(check_step_flow(step, depth, &mine));
    for (const u32 v : block.results) MRT_TRY(check_read(v, "the end of block", block.name.c_str()));
    if (depth > 0)
      for (const u32 v : mine) defined_[v] = 0;
    return Status();
  }

  Status check_step_flow(const Step& step, int depth, std::vector<u32>* mine) {
    const char* name = step.name.c_str();
    const Operator* op = step.kind == StepKind::kernel ? find_operator(step.target.c_str()) : nullptr;
    for (size_t i = 0; i < step.args.size(); ++i) {
      const Arg& a = step.args[i];
      if (a.kind != ArgKind::value) continue;
      MRT_TRY(check_read(a.index, "step", name, op && op->contract->input(i).is(kPacked)));
    }
    for (const u32 b : step.blocks) MRT_TRY(check_flow(plan_.blocks[b], depth + 1));
    for (const u32 s : step.binds) {
      MRT_CHECK(!from_inputs_[s], "step '%s' binds symbol '%s', which the inputs bind", name,
                plan_.symbols[s].name.c_str());
      symbols_[s] = 1;
    }
    for (const u32 v : step.outs) {
      const Value& value = plan_.values[v];
      touched_[v] = 1;
      if (value.storage == Storage::view) {
        MRT_TRY(check_read(value.base, "step", name));
      } else if (value.storage == Storage::state) {
        MRT_CHECK(defined_[v], "step '%s' writes state '%s', which its entry does not declare", name,
                  value.name.c_str());
      }
      MRT_CHECK(value.storage == Storage::state || !defined_[v], "value '%s' is defined twice", value.name.c_str());
      if (!defined_[v]) {
        defined_[v] = 1;
        mine->push_back(v);
      }
    }
    return Status();
  }

  using u64 = uint64_t;
  const Plan& plan_;
  const size_t weights_size_;
  ExprTable exprs_;
  bool has_seed_ = false;
  std::vector<u32> root_;
  std::vector<u32> used_;
  std::vector<u8> defined_;
  std::vector<u8> touched_;      // values that the entry's steps read or write
  std::vector<u8> symbols_;      // have a value by now
  std::vector<u8> from_inputs_;  // got it from the inputs
};

}  // namespace

Status validate(const plan::Plan& plan, size_t weights_size) { return Validator(plan, weights_size).run(); }

}  // namespace mrt
