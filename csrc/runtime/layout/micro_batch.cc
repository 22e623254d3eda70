#include "runtime/layout/micro_batch.h"

#include <algorithm>

#include "runtime/layout/passes.h"

namespace mrt {

using plan::ArgKind;
using plan::StepKind;
using plan::Storage;

namespace {

// Measured on Zen 3 (512 KiB of L2 a core): 0.5 to 4 MB serve MobileNets, a detector and a U-Net about equally well.
constexpr double kBudget = 2e6;             // bytes that a step reads and writes of a micro-batch
constexpr size_t kLongest = 256;            // steps of a stretch: the largest of them decides for all
constexpr double kMinBytes = kBudget / 16;  // less is not worth the calls
constexpr int kMaxArguments = 32;           // that can be batched: bits of batched_arguments()

bool has_batch(const Contract& c) {
  for (size_t i = 0; i < c.input_count; ++i)
    if (c.inputs[i].is(kBatched)) return true;
  return false;
}

// A step that can be cut.
struct Cut {
  int64_t batch = 0;
  size_t moved = 0;                            // bytes that one index of the batch reads and writes
  size_t fixed = 0;                            // bytes of other inputs, weights above all
  std::vector<uint32_t> reads, whole, writes;  // roots: of batched inputs, of other inputs, of outputs
};

class Finder {
 public:
  explicit Finder(const LayoutDraft& draft) : draft_(draft), program_(draft.program), plan_(draft.plan) {}

  std::vector<MicroBatch> find() {
    const uint32_t b = draft_.entry.block;
    const plan::Block& block = plan_.blocks[b];
    if (static_cast<double>(draft_.largest) * kMaxArguments <= kBudget ||
        std::none_of(block.steps.begin(), block.steps.end(), [&](const auto& step) { return may_want(step); }))
      return {};
    written_in_.assign(plan_.values.size(), 0);
    whole_in_.assign(plan_.values.size(), 0);
    named_.assign(plan_.values.size(), 0);
    for (size_t i = 0; i < block.steps.size(); ++i) {
      Cut cut;
      const bool able = cut_of(block.steps[i], program_.step_info(b, i), &cut);
      if (!able || cuts_.size() == kLongest || !joins(cut)) close();
      if (!able) continue;
      if (cuts_.empty()) first_ = i;
      for (const uint32_t r : cut.writes) written_in_[r] = stretch_;
      for (const uint32_t r : cut.whole) whole_in_[r] = stretch_;
      cuts_.push_back(std::move(cut));
    }
    close();
    return std::move(found_);
  }

 private:
  // Most models have no step that moves enough to be worth a look.
  bool may_want(const plan::Step& step) const {
    size_t bytes = 0;
    for (const plan::Arg& a : step.args) bytes += a.kind == ArgKind::value ? value(a.index).bytes : 0;
    for (const uint32_t v : step.outs) bytes += value(v).bytes;
    return static_cast<double>(bytes) > kBudget;
  }

  bool cut_of(const plan::Step& step, const StepInfo& info, Cut* cut) {
    if (step.kind != StepKind::kernel || !has_batch(*info.op->contract)) return false;
    std::vector<Tensor>& tensors = tensors_;
    tensors.clear();
    for (const plan::Arg& a : step.args) {
      if (a.kind == ArgKind::value) {
        if (!is_known(a.index)) return false;
        tensors.push_back(value(a.index));
      } else {
        tensors.emplace_back();
        tensors.back().ndim = -1;
      }
    }
    const size_t n_in = tensors.size();
    for (const uint32_t v : step.outs) {
      if (!is_known(v)) return false;
      tensors.push_back(value(v));
    }
    const uint32_t batched = batched_arguments(info, tensors.data(), static_cast<int>(n_in), tensors.data() + n_in,
                                               static_cast<int>(step.outs.size()));
    if (batched == 0) return false;
    cut->batch = tensors[n_in].shape[0];
    size_t moved = 0;
    for (size_t k = 0; k < n_in; ++k) {
      if (tensors[k].absent()) continue;
      const uint32_t v = step.args[k].index;
      if ((batched >> k & 1) != 0) {
        if (!is_whole(v)) return false;
        moved += tensors[k].bytes;
        cut->reads.push_back(program_.root(v));
      } else {
        cut->fixed += tensors[k].bytes;
        cut->whole.push_back(program_.root(v));
      }
    }
    for (const uint32_t v : step.outs) {
      if (!is_whole(v) || plan_.values[program_.root(v)].storage != Storage::arena) return false;
      moved += value(v).bytes;
      cut->writes.push_back(program_.root(v));
    }
    cut->moved = moved / static_cast<size_t>(cut->batch);
    return cut->fixed <= cut->moved;  // else reading the weights again costs what is won
  }

  const Tensor& value(uint32_t v) const { return draft_.layout.values[v]; }
  bool is_known(uint32_t v) const { return !draft_.is_dynamic(v) && !draft_.is_bad(v); }
  // Of a view: all of its root, so that a part of one is the same part of the other.
  bool is_whole(uint32_t v) const {
    const uint32_t r = program_.root(v);
    return r == v || (is_known(r) && value(r).bytes == value(v).bytes);
  }

  // Whether the step can follow the stretch so far: it needs no more of what the stretch writes than the same images.
  bool joins(const Cut& cut) const {
    if (cuts_.empty()) return true;
    if (cuts_.front().batch != cut.batch) return false;
    for (const uint32_t r : cut.whole)
      if (written_in_[r] == stretch_) return false;
    for (const uint32_t r : cut.writes)
      if (whole_in_[r] == stretch_) return false;
    return true;
  }

  // Whether the step alone would be a reason to cut.
  static bool wants(const Cut& cut) {
    return static_cast<double>(cut.moved) * static_cast<double>(cut.batch) > kBudget;
  }

  void close() {
    size_t begin = 0, end = cuts_.size();
    while (begin < end && !wants(cuts_[begin])) ++begin;
    while (end > begin && !wants(cuts_[end - 1])) --end;
    if (end - begin > 1) {
      size_t moved = 0;
      for (size_t i = begin; i < end; ++i) moved = std::max(moved, cuts_[i].moved);
      MicroBatch cut{first_ + begin, first_ + end - 1, cuts_[begin].batch, 1, 1, {}};
      choose_group(moved, &cut);
      if (cut.group < cut.batch && static_cast<double>(cut.group) * static_cast<double>(moved) >= kMinBytes) {
        cut.inner = inner(begin, end);
        found_.push_back(std::move(cut));
      }
    }
    cuts_.clear();
    ++stretch_;
  }

  // The largest group within the budget, if threads can share its number evenly; else the largest of all.
  void choose_group(size_t moved, MicroBatch* cut) const {
    for (int64_t g = 1; g < cut->batch && (g == 1 || static_cast<double>(g) * static_cast<double>(moved) <= kBudget);
         ++g) {
      if (cut->batch % g != 0) continue;
      const int32_t lanes = cut->batch / g % draft_.threads == 0 ? draft_.threads : 1;
      if (lanes < cut->lanes) continue;
      cut->group = g;
      cut->lanes = lanes;
    }
  }

  // Roots that a step of the stretch writes and that nothing outside of it names.
  std::vector<uint32_t> inner(size_t begin, size_t end) {
    std::vector<uint32_t> result;
    const auto each = [&](const auto& visit) {
      for (size_t i = begin; i < end; ++i)
        for (const auto* list : {&cuts_[i].reads, &cuts_[i].writes})
          for (const uint32_t r : *list) visit(r);
    };
    each([&](uint32_t r) { ++named_[r]; });
    for (size_t i = begin; i < end; ++i)
      for (const uint32_t r : cuts_[i].writes) {
        if (named_[r] == draft_.info.lifetimes.uses[r]) result.push_back(r);
        named_[r] = 0;
      }
    each([&](uint32_t r) { named_[r] = 0; });
    return result;
  }

  const LayoutDraft& draft_;
  const Program& program_;
  const plan::Plan& plan_;
  size_t first_ = 0;                             // step of cuts_[0]
  std::vector<Cut> cuts_;                        // of the stretch so far
  uint32_t stretch_ = 1;                         // its number
  std::vector<uint32_t> written_in_, whole_in_;  // by root: the last stretch that writes it, that reads all of it
  std::vector<uint32_t> named_;                  // by root: scratch of inner()
  std::vector<Tensor> tensors_;                  // scratch of cut_of()
  std::vector<MicroBatch> found_;
};

}  // namespace

uint32_t batched_arguments(const StepInfo& info, const Tensor* in, int n_in, const Tensor* out, int n_out) {
  const uint32_t inputs = batched_inputs(*info.op, info.params, in, n_in);
  if (inputs == 0) return 0;
  // A constant may have more bytes than its shape says: its images are no equal parts of them.
  const auto fits = [&](const Tensor& t) {
    return t.ndim >= 2 && t.shape[0] == out[0].shape[0] && t.bytes > 0 &&
           t.bytes == static_cast<size_t>(t.elements()) * t.dtype.bytes();
  };
  for (int k = 0; k < n_out; ++k)
    if (!fits(out[k])) return 0;
  for (int k = 0; k < n_in; ++k)
    if ((inputs >> k & 1) != 0 && !in[k].absent() && !fits(in[k])) return 0;
  return inputs;
}

void cut_batches(LayoutDraft* draft) {
  const Program& program = draft->program;
  draft->stretches = Finder(*draft).find();
  if (draft->stretches.empty()) return;
  draft->ranges = draft->info.lifetimes.ranges;
  draft->stretch_of.assign(draft->plan.values.size(), -1);
  for (size_t s = 0; s < draft->stretches.size(); ++s)
    for (const uint32_t r : draft->stretches[s].inner) draft->stretch_of[r] = static_cast<int32_t>(s);
  for (const MicroBatch& stretch : draft->stretches) {
    const LiveRange all{draft->info.lifetimes.positions[stretch.first], draft->info.lifetimes.positions[stretch.last]};
    // What does not live within one time alone lives through all of them.
    const auto outlive = [&](uint32_t v) {
      if (draft->stretch(v)) return;
      LiveRange& range = draft->ranges[program.root(v)];
      range.first = std::min(range.first, all.first);
      range.last = std::max(range.last, all.last);
    };
    for (size_t i = stretch.first; i <= stretch.last; ++i) {
      const plan::Step& step = draft->plan.blocks[draft->entry.block].steps[i];
      for (const plan::Arg& a : step.args)
        if (a.kind == ArgKind::value) outlive(a.index);
      for (const uint32_t v : step.outs) outlive(v);
    }
  }
}

}  // namespace mrt
