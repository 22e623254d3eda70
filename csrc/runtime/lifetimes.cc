#include "runtime/lifetimes.h"

namespace mrt {
namespace {

using plan::ArgKind;
using plan::StepKind;

constexpr uint32_t kNone = ~0u;

class Finder {
 public:
  Finder(const plan::Plan& plan, const plan::Entry& entry, const std::vector<uint32_t>& roots)
      : plan_(plan), entry_(entry), roots_(roots) {
    out_.uses.assign(plan.values.size(), 0);
    out_.ranges.assign(plan.values.size(), LiveRange());
    home_.assign(plan.values.size(), kNone);
    last_step_.assign(plan.values.size(), kNone);
    step_of_.assign(plan.blocks.size(), 0);
  }

  Lifetimes find(const CommitPlan& commit) {
    for (const uint32_t v : entry_.inputs) touch(v);
    visit_block(entry_.block, kNone);
    ++position_;
    for (const uint32_t v : entry_.outputs) keep(v);
    // What becomes of the states is there to the end of the run.
    const std::vector<plan::Step>& steps = plan_.blocks[entry_.block].steps;
    for (size_t i = 0; i < steps.size(); ++i)
      if (commit.deferred[i]) keep(steps[i].args[0].index);
    for (size_t s = 0; s < plan_.states.size(); ++s) {
      if (!commit.staged[s]) continue;
      keep(plan_.states[s].value);
      out_.ranges[plan_.states[s].value].first = 1;
    }
    collect_last_uses();
    return std::move(out_);
  }

 private:
  // The value is read or written now; its root must live.
  void touch(uint32_t v) {
    const uint32_t r = roots_[v];
    ++out_.uses[v];
    if (r != v) ++out_.uses[r];
    LiveRange& range = out_.ranges[r];
    if (range.last == 0) range.first = position_;
    range.last = position_;
    if (loop_depth_ > 0) touched_.push_back(r);
    if (home_[r] != kNone) last_step_[r] = step_of_[home_[r]];
  }

  void keep(uint32_t v) {
    touch(v);
    home_[roots_[v]] = kNone;
  }

  // A step of the block writes it, or fills it in for a block that the step runs.
  void define(uint32_t v, uint32_t block) {
    if (home_[roots_[v]] == kNone) home_[roots_[v]] = block;
    touch(v);
  }

  // The step that runs the block reads what comes out of it.
  void read_result(uint32_t v, uint32_t block, uint32_t parent) {
    const uint32_t r = roots_[v];
    if (home_[r] == block) home_[r] = parent;
    touch(v);
  }

  void visit_block(uint32_t b, uint32_t parent) {
    const plan::Block& block = plan_.blocks[b];
    for (uint32_t i = 0; i < block.steps.size(); ++i) {
      const plan::Step& step = block.steps[i];
      ++position_;
      step_of_[b] = i;
      if (parent == kNone) out_.positions.push_back(position_);
      for (const plan::Arg& a : step.args)
        if (a.kind == ArgKind::value) touch(a.index);
      for (const uint32_t v : step.outs) define(v, b);
      if (step.kind == StepKind::loop) {
        visit_loop(step, b);
      } else {
        for (const uint32_t inner : step.blocks) {
          visit_block(inner, b);
          // The results are copied when the block ends, while what they are copied to lives already.
          ++position_;
          for (const uint32_t v : plan_.blocks[inner].results) read_result(v, inner, b);
          for (const uint32_t v : step.outs) touch(v);
        }
      }
    }
  }

  // What the body uses from outside, its parameters and the outputs live through all iterations.
  void visit_loop(const plan::Step& step, uint32_t b) {
    const uint32_t begin = position_, inner = step.blocks[0];
    const plan::Block& body = plan_.blocks[inner];
    const size_t mark = touched_.size();
    ++loop_depth_;
    for (const uint32_t v : body.params) define(v, b);
    visit_block(inner, b);
    ++position_;
    for (const uint32_t v : body.results) read_result(v, inner, b);
    for (const uint32_t v : step.outs) touch(v);
    for (size_t i = mark; i < touched_.size(); ++i) {
      LiveRange& range = out_.ranges[touched_[i]];
      if (range.first <= begin) range.last = position_;
    }
    --loop_depth_;
    if (loop_depth_ == 0) touched_.clear();
  }

  void collect_last_uses() {
    for (uint32_t r = 0; r < home_.size(); ++r)
      if (home_[r] != kNone) out_.last_uses.push_back({home_[r], last_step_[r], r});
  }

  const plan::Plan& plan_;
  const plan::Entry& entry_;
  const std::vector<uint32_t>& roots_;
  Lifetimes out_;
  uint32_t position_ = 1;
  int loop_depth_ = 0;
  std::vector<uint32_t> touched_;    // roots, within loops
  std::vector<uint32_t> home_;       // by root: the block whose step writes it; none: it lives to the end
  std::vector<uint32_t> last_step_;  // by root: of that block, in which it was used last
  std::vector<uint32_t> step_of_;    // by block: the one that is visited
};

}  // namespace

Lifetimes find_lifetimes(const plan::Plan& plan, const plan::Entry& entry, const std::vector<uint32_t>& roots,
                         const CommitPlan& commit) {
  return Finder(plan, entry, roots).find(commit);
}

}  // namespace mrt
