#include "runtime/commit.h"

namespace mrt {
namespace {

using plan::ArgKind;
using plan::Step;
using plan::StepKind;
using plan::Storage;

constexpr size_t kNone = ~size_t{0};

class Planner {
 public:
  Planner(const plan::Plan& plan, const plan::Entry& entry, const std::vector<uint32_t>& roots)
      : plan_(plan), block_(plan.blocks[entry.block]), roots_(roots) {
    out_.deferred.assign(block_.steps.size(), 0);
    out_.staged.assign(plan.states.size(), 0);
    writer_.assign(plan.states.size(), kNone);
    written_.assign(plan.values.size(), 0);
  }

  CommitPlan run() {
    for (at_ = 0; at_ < block_.steps.size(); ++at_) visit(block_.steps[at_], true);
    // What waits must find its source as it was.
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t s = 0; s < writer_.size(); ++s) {
        if (writer_[s] == kNone || out_.staged[s] || !changes_later(writer_[s])) continue;
        out_.staged[s] = 1;
        changed = true;
      }
    }
    for (size_t s = 0; s < writer_.size(); ++s)
      if (writer_[s] != kNone && !out_.staged[s]) out_.deferred[writer_[s]] = 1;
    return std::move(out_);
  }

 private:
  // The state that a value is, or looks into; -1 if none.
  int64_t state_of(uint32_t value) const {
    const plan::Value& root = plan_.values[roots_[value]];
    return root.storage == Storage::state ? static_cast<int64_t>(root.base) : -1;
  }

  // Whether what a copy step reads may be something else at the end of the run. A state that is copied into at the end
  // is not: copies that wait run in the order of their steps.
  bool changes_later(size_t copy) const {
    const uint32_t source = block_.steps[copy].args[0].index;
    const int64_t state = state_of(source);
    return state >= 0 ? out_.staged[static_cast<size_t>(state)] != 0 : written_[roots_[source]] > copy;
  }

  void read(uint32_t value) {
    const int64_t s = state_of(value);
    if (s >= 0 && writer_[static_cast<size_t>(s)] != kNone) out_.staged[static_cast<size_t>(s)] = 1;
  }

  // Depth of blocks is bounded by validation.
  void visit(const Step& step, bool top) {
    for (const plan::Arg& a : step.args)
      if (a.kind == ArgKind::value) read(a.index);
    for (const uint32_t b : step.blocks) {
      for (const Step& inner : plan_.blocks[b].steps) visit(inner, false);
      for (const uint32_t v : plan_.blocks[b].results) read(v);
    }
    for (const uint32_t v : step.outs) {
      written_[roots_[v]] = at_;
      const int64_t state = state_of(v);
      if (state < 0) continue;
      const size_t s = static_cast<size_t>(state);
      const bool whole_copy = top && step.kind == StepKind::copy && v == roots_[v];
      if (!whole_copy || writer_[s] != kNone) out_.staged[s] = 1;
      writer_[s] = at_;
    }
  }

  const plan::Plan& plan_;
  const plan::Block& block_;
  const std::vector<uint32_t>& roots_;
  CommitPlan out_;
  std::vector<size_t> writer_;   // by state: the last step of the block that writes it
  std::vector<size_t> written_;  // the same by root of values; 0 too where none does
  size_t at_ = 0;
};

}  // namespace

CommitPlan plan_commit(const plan::Plan& plan, const plan::Entry& entry, const std::vector<uint32_t>& roots) {
  return Planner(plan, entry, roots).run();
}

}  // namespace mrt
