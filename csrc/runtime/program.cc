#include "runtime/program.h"

#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "base/cpu.h"
#include "base/hooks.h"
#include "runtime/attrs.h"
#include "runtime/n_m.h"
#include "runtime/shapes.h"
#include "runtime/validate.h"

namespace mrt {

using plan::StepKind;
using plan::Storage;

Program::~Program() = default;

Status Program::load(FileBytes bytes, const std::string& name, const mrt_load_options& options,
                     std::unique_ptr<Program>* out) {
  MRT_TRY(isa_status());
  freeze_hooks();
  std::unique_ptr<Program> p(new Program);
  MRT_TRY(p->container_.parse(std::move(bytes), name));
  bool whole = options.verify == MRT_VERIFY_FULL;
  MRT_TRY(p->check_policy(options, &whole));
  MRT_TRY(p->container_.open(options, whole));
  const std::vector<uint8_t>& plan = p->container_.plan();
  const auto in_file = [&](const Status& status) {
    return status.ok() ? status : fail(status.code(), "'%s': %s", name.c_str(), status.message().c_str());
  };
  MRT_TRY(in_file(plan::decode(plan.data(), plan.size(), &p->plan_)));
  MRT_TRY(in_file(validate(p->plan_, p->container_.weights_size())));
  p->exprs_.init(p->plan_);
  MRT_TRY(p->load_code(options));
  MRT_TRY(in_file(p->prepare_kernels()));
  p->find_roots();
  p->find_fixed();
  for (size_t v = 0; v < p->plan_.values.size(); ++v)
    if (p->plan_.values[v].storage == Storage::seed) p->seed_ = static_cast<int64_t>(v);
  p->resident_ = options.resident_bytes;
  if (p->resident_ != 0) p->find_weights();
  for (const plan::State& s : p->plan_.states) {
    p->state_texts_.push_back(p->describe_value(s.value, s.name));
    size_t size = p->state_texts_.back().dtype.bytes();
    for (const mrt_dim& d : p->state_texts_.back().dims) size *= static_cast<size_t>(d.extent);
    p->state_bytes_.push_back(size);
  }
  for (const plan::Entry& entry : p->plan_.entries) p->describe_entry(entry);
  p->note_last_uses();
  MRT_TRY(p->check_unchanged());
  p->container_.forget_file();
  *out = std::move(p);
  return Status();
}

Status Program::check_policy(const mrt_load_options& options, bool* whole) {
  const char* file = container_.name().c_str();
  bool has_code = false;
  for (const Section& s : container_.sections()) has_code = has_code || s.kind == SectionKind::code;
  if (has_code && options.code == MRT_CODE_REFUSE)
    return fail(MRT_ERROR_CODE_REFUSED,
                "'%s' holds generated code and the load options refuse code; load it with code "
                "allowed if you trust where it comes from",
                file);
  const bool sign = options.check_signature || (has_code && options.code == MRT_CODE_SIGNED);
  if (sign) {
    if (!options.check_signature)
      return fail(MRT_ERROR_INVALID_ARGUMENT,
                  "code is allowed only if signed, but the load options have no "
                  "check_signature");
    const Section* s = container_.signature();
    if (!s) return fail(MRT_ERROR_SIGNATURE, "'%s' has no signature and the load options ask for one", file);
    MRT_TRY(container_.check_hash(*s, container_.data(*s)));
    const std::vector<uint8_t> table = container_.signed_bytes();
    if (options.check_signature(options.signature_user, table.data(), table.size(), container_.data(*s), s->size) != 1)
      return fail(MRT_ERROR_SIGNATURE, "the signature of '%s' was not accepted", file);
    MRT_TRY(container_.check_unread());
  }
  *whole = *whole || sign;  // a signature covers the weights
  return Status();
}

Status Program::load_code(const mrt_load_options& options) {
  steps_.resize(plan_.blocks.size());
  bool calls_code = false;
  for (size_t b = 0; b < plan_.blocks.size(); ++b) {
    steps_[b].resize(plan_.blocks[b].steps.size());
    for (const plan::Step& step : plan_.blocks[b].steps) calls_code = calls_code || step.kind == StepKind::code;
  }
  if (!calls_code) return Status();
  MRT_TRY(open_code(container_, options, &code_));
  for (size_t b = 0; b < plan_.blocks.size(); ++b)
    for (size_t i = 0; i < steps_[b].size(); ++i) {
      const plan::Step& step = plan_.blocks[b].steps[i];
      if (step.kind != StepKind::code) continue;
      steps_[b][i].function = code_->find(step.target);
      if (!steps_[b][i].function)
        return fail(MRT_ERROR_FORMAT, "the plan of '%s' calls '%s', which its code section does not define",
                    container_.name().c_str(), step.target.c_str());
    }
  return Status();
}

Status Program::prepare_kernels() {
  for (size_t b = 0; b < plan_.blocks.size(); ++b) {
    for (size_t i = 0; i < steps_[b].size(); ++i) {
      const plan::Step& step = plan_.blocks[b].steps[i];
      if (step.kind != StepKind::kernel) continue;
      const Operator* op = find_operator(step.target.c_str());
      params_.emplace_back(new uint64_t[op->params_bytes / 8 + 1]());
      const StepAttrs attrs(step, op->contract);
      Status status = check_keys(attrs);
      if (status.ok()) status = op->prepare(attrs, bound_isa(), params_.back().get());
      if (status.ok() && op->contract->packs()) status = widen_weights(step, *op, attrs);
      if (status.ok() && op->check_weight != nullptr) {
        Tensor packed;
        give_constant(step.args[static_cast<size_t>(packed_input(*op->contract))].index, &packed);
        status = op->check_weight(params_.back().get(), packed);
      }
      if (!status.ok()) return fail(status.code(), "step '%s': %s", step.name.c_str(), status.message().c_str());
      steps_[b][i].op = op;
      steps_[b][i].params = params_.back().get();
      steps_[b][i].kernel = kernel_names_.insert(kernel_name(*op, params_.back().get(), bound_isa())).first->c_str();
    }
  }
  return Status();
}

const Widened* Program::widened(uint32_t value) const {
  for (const Widened& w : widened_)
    if (w.value == value) return &w;
  return nullptr;
}

void Program::give_constant(uint32_t value, Tensor* out) const {
  const plan::Value& v = plan_.values[value];
  const Widened* const wide = v.encoding == plan::Encoding::n_m ? widened(value) : nullptr;
  out->data = wide != nullptr ? wide->memory.data() : const_cast<uint8_t*>(constant(v));
  out->bytes = wide != nullptr ? wide->bytes : static_cast<size_t>(v.bytes);
}

Status Program::widen_weights(const plan::Step& step, const Operator& op, const Attrs& attrs) {
  for (size_t i = 0; i < step.args.size(); ++i) {
    const plan::Arg& arg = step.args[i];
    const bool packed = op.contract->input(i).is(kPacked) && arg.kind == plan::ArgKind::value;
    if (!packed || plan_.values[arg.index].encoding != plan::Encoding::n_m) continue;
    const Widened* const other = widened(arg.index);
    if (other == nullptr) MRT_TRY(widen_weight(arg.index, step, op, attrs));
    if (other != nullptr && *other->packing != step.packing)
      return fail(MRT_ERROR_FORMAT, "the weight '%s' is read in two packings", plan_.values[arg.index].name.c_str());
  }
  return Status();
}

Status Program::widen_weight(uint32_t value, const plan::Step& step, const Operator& op, const Attrs& attrs) {
  const plan::Value &v = plan_.values[value], &indices = plan_.values[v.base];
  const char* const name = v.name.c_str();
  const auto reserve = [name](size_t bytes, Arena* arena) {
    if (arena->reserve(bytes)) return Status();
    return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for the %zu bytes of the weight '%s'", bytes, name);
  };
  const DType dtype{v.dtype_code, v.dtype_bits};
  NmLayout layout;
  n_m_layout(exprs_, v, indices, &layout);
  int64_t shape[MRT_MAX_RANK];
  for (size_t d = 0; d < v.dims.size(); ++d) exprs_.constant(v.dims[d], &shape[d]);
  Tensor dense{nullptr, shape, static_cast<int32_t>(v.dims.size()), dtype, layout.dense_count() * dtype.bytes()};
  Arena memory;
  MRT_TRY(reserve(dense.bytes, &memory));
  dense.data = memory.data();
  MRT_TRY(check_weight(*op.contract, dense));
  if (const char* const fault = widen(layout, constant(v), constant(indices), dtype.bytes(), dense.data))
    return fail(MRT_ERROR_FORMAT, "the weight '%s', stored %" PRId64 ":%" PRId64 ", is damaged: it %s", name, layout.n,
                layout.m, fault);
  int64_t bytes = 0;
  MRT_TRY(op.pack(dense, attrs, &bytes, nullptr));
  if (bytes < 0) return fail(MRT_ERROR_SHAPE, "the packed weight '%s' is too large to address", name);
  Widened wide{value, &step.packing, Arena(), static_cast<size_t>(bytes)};
  MRT_TRY(reserve(wide.bytes, &wide.memory));
  MRT_TRY(op.pack(dense, attrs, &bytes, wide.memory.data()));
  widened_.push_back(std::move(wide));
  return Status();
}

void Program::find_weights() {
  for (size_t b = 0; b < plan_.blocks.size(); ++b)
    for (size_t i = 0; i < plan_.blocks[b].steps.size(); ++i)
      for (const plan::Arg& a : plan_.blocks[b].steps[i].args) {
        if (a.kind != plan::ArgKind::value) continue;
        const plan::Value& v = plan_.values[root(a.index)];
        if (v.storage == Storage::constant) steps_[b][i].weights += static_cast<size_t>(v.bytes);
      }
}

void Program::count_weights(size_t bytes) const {
  if (counted_.fetch_add(bytes, std::memory_order_relaxed) + bytes < resident_) return;
  counted_.store(0, std::memory_order_relaxed);
  container_.bytes().let_go();
}

void Program::find_roots() {
  constexpr uint32_t kUnknown = ~0u;
  roots_.assign(plan_.values.size(), kUnknown);
  std::vector<uint32_t> path;
  for (uint32_t i = 0; i < roots_.size(); ++i) {
    uint32_t at = i;
    path.clear();
    while (roots_[at] == kUnknown && plan_.values[at].storage == Storage::view) {
      path.push_back(at);
      at = plan_.values[at].base;
    }
    const uint32_t root = roots_[at] == kUnknown ? at : roots_[at];
    roots_[at] = root;
    for (const uint32_t v : path) roots_[v] = root;
  }
}

// Values whose dims are constants. One that is impossible stays out: a binding says so where it is used.
void Program::find_fixed() {
  Bindings none;
  exprs_.reset(&none);
  exprs_.evaluate(&none);
  fixed_.assign(plan_.values.size(), Tensor());
  size_t extents = 0;
  for (const plan::Value& v : plan_.values) extents += 2 * v.dims.size();
  fixed_extents_.assign(extents + 1, 0);
  int64_t* next = fixed_extents_.data();
  for (uint32_t i = 0; i < fixed_.size(); ++i) {
    const plan::Value& v = plan_.values[i];
    Tensor& t = fixed_[i];
    t.ndim = -1;
    t.dtype = {v.dtype_code, v.dtype_bits};
    t.shape = next;
    if (std::any_of(v.dims.begin(), v.dims.end(), [&](uint32_t e) { return none.exprs[e].known != Known::yes; }) ||
        !value_shape(*this, none, i, next, &t.bytes).ok())
      continue;
    t.ndim = static_cast<int32_t>(v.dims.size());
    next += 2 * v.dims.size();
    if (v.storage != Storage::constant) continue;
    give_constant(i, &t);
    largest_constant_ = std::max(largest_constant_, t.bytes);
  }
}

ValueText Program::describe_value(uint32_t value, const std::string& name) const {
  const plan::Value& v = plan_.values[value];
  ValueText t;
  t.name = name;
  t.dtype = {v.dtype_code, v.dtype_bits};
  t.texts.resize(v.dims.size());
  t.dims.resize(v.dims.size());
  for (size_t d = 0; d < v.dims.size(); ++d) {
    mrt_dim& dim = t.dims[d];
    dim = {-1, nullptr, 0, -1};
    exprs_.bounds(v.dims[d], &dim.min, &dim.max);
    if (exprs_.constant(v.dims[d], &dim.extent)) continue;
    dim.extent = -1;
    t.texts[d] = exprs_.text(v.dims[d]);
    dim.expr = t.texts[d].c_str();  // the strings stay where they are: the vector is moved, never copied
  }
  return t;
}

void Program::describe_entry(const plan::Entry& entry) {
  EntryInfo info;
  info.entry = &entry;
  info.uses_states = !entry.reads.empty() || !entry.writes.empty();
  info.commit = plan_commit(plan_, entry, roots_);
  for (const uint32_t v : entry.inputs) {
    info.input_texts.push_back(describe_value(v, plan_.values[v].name));
    std::vector<InputDim> dims;
    for (const uint32_t e : plan_.values[v].dims) {
      InputDim d{e, false, 0, 0, 0};
      d.linear = exprs_.linear(e, &d.symbol, &d.scale, &d.offset);
      dims.push_back(d);
    }
    info.inputs.push_back(std::move(dims));
  }
  for (const uint32_t v : entry.outputs) info.output_texts.push_back(describe_value(v, plan_.values[v].name));

  info.dynamic_symbols.assign(plan_.symbols.size(), 0);
  mark_dynamic(&info, entry.block);
  info.dynamic_exprs.assign(plan_.exprs.size(), 0);
  for (uint32_t e = 0; e < plan_.exprs.size(); ++e) info.dynamic_exprs[e] = exprs_.depends(e, info.dynamic_symbols);
  // A view is dynamic if its base is; views may stand before or after their base in the table, so ask the root.
  info.dynamic_values.assign(plan_.values.size(), 0);
  const auto is_dynamic = [&](const plan::Value& v) {
    for (const uint32_t e : v.dims)
      if (info.dynamic_exprs[e]) return true;
    return v.storage == Storage::view && info.dynamic_exprs[static_cast<size_t>(v.offset)] != 0;
  };
  std::vector<uint8_t> visited(plan_.values.size(), 0);
  std::vector<uint32_t> path;
  for (uint32_t i = 0; i < plan_.values.size(); ++i) {
    uint32_t at = i;
    path.clear();
    while (!visited[at] && plan_.values[at].storage == Storage::view) {
      path.push_back(at);
      at = plan_.values[at].base;
    }
    if (!visited[at]) info.dynamic_values[at] = is_dynamic(plan_.values[at]);
    visited[at] = 1;
    for (size_t k = path.size(); k-- > 0;) {
      const plan::Value& v = plan_.values[path[k]];
      info.dynamic_values[path[k]] = info.dynamic_values[v.base] || is_dynamic(v);
      visited[path[k]] = 1;
    }
  }
  info.lifetimes = find_lifetimes(plan_, entry, roots_, info.commit);
  for (uint32_t v = 0; v < plan_.values.size(); ++v)
    if (info.lifetimes.uses[v] != 0 && plan_.values[v].storage != Storage::constant) info.placed.push_back(v);
  count_arguments(&info, entry.block);
  entries_.push_back(std::move(info));
}

void Program::count_arguments(EntryInfo* info, uint32_t block) const {
  for (const plan::Step& step : plan_.blocks[block].steps) {
    if (step.kind == StepKind::kernel) info->tensors += step.args.size() + step.outs.size();
    if (step.kind == StepKind::code) info->ffi += step.args.size() + step.outs.size();
    for (const uint32_t inner : step.blocks) count_arguments(info, inner);
  }
}

// Memory of values whose size is known is planned; the others' is given back when the run is done with them.
void Program::note_last_uses() {
  std::vector<LastUse> uses;
  for (const EntryInfo& info : entries_)
    for (const LastUse& use : info.lifetimes.last_uses)
      if (info.dynamic_values[use.root] && plan_.values[use.root].storage == Storage::arena) uses.push_back(use);
  for (const LastUse& use : uses) ++steps_[use.block][use.step].last_use_count;
  uint32_t end = 0;
  for (std::vector<StepInfo>& steps : steps_)
    for (StepInfo& step : steps) step.last_uses = end += step.last_use_count;
  last_uses_.resize(uses.size());
  for (const LastUse& use : uses) last_uses_[--steps_[use.block][use.step].last_uses] = use.root;
}

// Depth of blocks is bounded by validation.
void Program::mark_dynamic(EntryInfo* info, uint32_t block) {
  for (const plan::Step& step : plan_.blocks[block].steps) {
    for (const uint32_t s : step.binds) info->dynamic_symbols[s] = 1;
    for (const uint32_t b : step.blocks) mark_dynamic(info, b);
  }
}

}  // namespace mrt
