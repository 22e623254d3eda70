// Steps: what each kind of them needs, so that they may be run without a look at their operands.
#include "kernels/kernel.h"
#include "runtime/attrs.h"
#include "runtime/validate/validation.h"

namespace mrt {
namespace {

using namespace plan;

constexpr int kPackedAlignment = 64;  // what kernels count on where they read masks and panels

class Steps {
 public:
  explicit Steps(Validation* v) : v_(*v), plan_(v->plan) {}

  Status run() {
    // A block has one user at most; with entries as roots that makes the nesting a forest.
    v_.used.assign(plan_.blocks.size(), 0);
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

 private:
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
      const Storage storage = plan_.values[v_.root[v]].storage;
      MRT_CHECK(storage == Storage::arena || storage == Storage::state,
                "step '%s' writes into '%s', which is an input, a constant or the seed", name,
                plan_.values[v].name.c_str());
    }
    for (const u32 s : step.binds)
      MRT_CHECK(s < plan_.symbols.size(), "step '%s' binds a symbol that does not exist", name);
    for (const u32 b : step.blocks) {
      MRT_CHECK(b < plan_.blocks.size(), "step '%s' runs a block that does not exist", name);
      MRT_CHECK(++v_.used[b] == 1, "block '%s' is run by two steps", plan_.blocks[b].name.c_str());
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
      MRT_CHECK(!c.input(i).is(kPacked) || v.offset % kPackedAlignment == 0,
                "the packed weight of step '%s' does not begin on a multiple of %d bytes", name, kPackedAlignment);
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
      const bool known = pairs[i] >= 0 && static_cast<uint64_t>(pairs[i]) < carried && pairs[i + 1] >= 0;
      MRT_CHECK(known, "an extent of loop step '%s' is of no carried value", step.name.c_str());
      const size_t k = static_cast<size_t>(pairs[i]);
      for (const u32 v : {step.args[k + 2].index, body.params[k + 1], body.results[k + 1], step.outs[k]})
        MRT_CHECK(static_cast<uint64_t>(pairs[i + 1]) < plan_.values[v].dims.size(),
                  "an extent of loop step '%s' is of no axis of '%s'", step.name.c_str(), plan_.values[v].name.c_str());
    }
    return Status();
  }

  Validation& v_;
  const Plan& plan_;
};

}  // namespace

Status check_steps(Validation* v) { return Steps(v).run(); }

}  // namespace mrt
