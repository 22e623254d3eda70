// Entries: definitions before uses, and a value for every symbol that is used.
#include <string>
#include <unordered_set>

#include "kernels/kernel.h"
#include "runtime/validate/validation.h"

namespace mrt {
namespace {

using namespace plan;

class Flow {
 public:
  explicit Flow(const Validation& v) : v_(v), plan_(v.plan) {}

  Status run() {
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

 private:
  Status check_entry(const Entry& entry) {
    const char* name = entry.name.c_str();
    MRT_CHECK(entry.block < plan_.blocks.size() && v_.used[entry.block] == 0, "entry '%s' has no block of its own",
              name);
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
        if (v_.exprs.linear(e, &s, &scale, &offset)) symbols_[s] = 1;
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
    touched_[v] = touched_[v_.root[v]] = 1;
    const Value& root = plan_.values[v_.root[v]];
    if (!packed && root.storage == Storage::constant)
      MRT_CHECK(holds_its_shape(v_, root),
                "constant '%s' is smaller than its shape, and %s '%s' does not take it packed", root.name.c_str(), what,
                name);
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

  const Validation& v_;
  const Plan& plan_;
  std::vector<u8> defined_;
  std::vector<u8> touched_;      // values that the entry's steps read or write
  std::vector<u8> symbols_;      // have a value by now
  std::vector<u8> from_inputs_;  // got it from the inputs
};

}  // namespace

Status check_entries(const Validation& v) { return Flow(v).run(); }

}  // namespace mrt
