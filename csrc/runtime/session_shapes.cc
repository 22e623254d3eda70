// What a session does where the shapes of a run are new to it: symbols get their values, and a layout is found or
// built.
#include <algorithm>
#include <string>

#include "runtime/session.h"
#include "runtime/texts.h"

namespace mrt {

Status Session::select_layout(const RunRequest& r) {
  layout_ = nullptr;
  MRT_TRY(bind(r));
  MRT_TRY(find_layout(r.entry));
  int64_t* last = last_extents_.data();
  for (size_t i = 0; i < r.input_count; ++i)
    for (int32_t d = 0; d < r.inputs[i].ndim; ++d) *last++ = r.inputs[i].shape[d];
  return Status();
}

// Symbols take their values from dimensions that are a symbol, then from those that are scale * symbol + offset; then
// every dimension is compared with what its expression says.
Status Session::bind(const RunRequest& r) {
  const EntryInfo& info = program_->entries()[r.entry];
  std::fill(bindings_.symbol_known.begin(), bindings_.symbol_known.end(), uint8_t{0});
  std::fill(bindings_.symbols.begin(), bindings_.symbols.end(), 0);
  for (const bool plain : {true, false})
    for (size_t i = 0; i < r.input_count; ++i)
      for (size_t d = 0; d < info.inputs[i].size(); ++d) {
        const InputDim& dim = info.inputs[i][d];
        if (r.inputs[i].shape[d] < 0)
          return fail(MRT_ERROR_SHAPE, "input '%s' has extent %lld in dimension %zu, expected 0 or more",
                      info.input_texts[i].name.c_str(), static_cast<long long>(r.inputs[i].shape[d]), d);
        if (!dim.linear || bindings_.symbol_known[dim.symbol] || plain != (dim.scale == 1 && dim.offset == 0)) continue;
        MRT_TRY(bind_symbol(info.input_texts[i], d, dim, r.inputs[i].shape[d]));
      }
  program_->exprs().evaluate(&bindings_);
  MRT_TRY(check_dims(r));
  for (const plan::Check& check : info.entry->checks) {
    const ExprValue &a = bindings_.exprs[check.lhs], &b = bindings_.exprs[check.rhs];
    if (a.known == Known::yes && b.known == Known::yes && a.value == b.value) continue;
    if (program_->exprs().is_truth(check.lhs))
      return fail(MRT_ERROR_SHAPE, "%s (here %s)", check.message.c_str(), sizes_text(check.lhs).c_str());
    return fail(MRT_ERROR_SHAPE, "the inputs' shapes do not fit together: %s (%s must equal %s)", check.message.c_str(),
                program_->exprs().text(check.lhs).c_str(), program_->exprs().text(check.rhs).c_str());
  }
  return Status();
}

std::string Session::sizes_text(uint32_t expr) const {
  std::string text;
  const std::vector<plan::Symbol>& symbols = program_->plan().symbols;
  for (uint32_t s = 0; s < symbols.size(); ++s)
    if (bindings_.symbol_known[s] && program_->exprs().depends_on(expr, s))
      text += (text.empty() ? "" : ", ") + symbols[s].name + " is " + std::to_string(bindings_.symbols[s]);
  return text;
}

Status Session::bind_symbol(const ValueText& input, size_t dim, const InputDim& d, int64_t extent) {
  const plan::Symbol& symbol = program_->plan().symbols[d.symbol];
  int64_t rest = 0;
  const bool whole =
      !__builtin_sub_overflow(extent, d.offset, &rest) && !(rest == INT64_MIN && d.scale == -1) && rest % d.scale == 0;
  if (!whole)
    return fail(MRT_ERROR_SHAPE, "input '%s' has extent %lld in dimension %zu, which is %s for no whole %s",
                input.name.c_str(), static_cast<long long>(extent), dim, input.texts[dim].c_str(), symbol.name.c_str());
  const int64_t value = rest / d.scale;
  if (!symbol_allows(symbol, value)) {
    const bool plain = d.scale == 1 && d.offset == 0;
    return fail(MRT_ERROR_SHAPE, "input '%s' has extent %lld in dimension %zu (%s), expected %s%s%s",
                input.name.c_str(), static_cast<long long>(extent), dim, input.texts[dim].c_str(),
                plain ? "" : symbol.name.c_str(), plain ? "" : " to be ", symbol_range(symbol).c_str());
  }
  bindings_.symbols[d.symbol] = value;
  bindings_.symbol_known[d.symbol] = 1;
  return Status();
}

Status Session::check_dims(const RunRequest& r) const {
  const EntryInfo& info = program_->entries()[r.entry];
  for (size_t i = 0; i < r.input_count; ++i)
    for (size_t d = 0; d < info.inputs[i].size(); ++d) {
      const ExprValue& e = bindings_.exprs[info.inputs[i][d].expr];
      if (e.known == Known::yes && e.value == r.inputs[i].shape[d]) continue;
      const ValueText& text = info.input_texts[i];
      const std::string expected = e.known == Known::yes ? std::to_string(e.value) : "a number that fits 64 bits";
      return fail(MRT_ERROR_SHAPE, "input '%s' has extent %lld in dimension %zu, expected %s%s%s%s: shape %s, got %s",
                  text.name.c_str(), static_cast<long long>(r.inputs[i].shape[d]), d, expected.c_str(),
                  text.texts[d].empty() ? "" : " (", text.texts[d].c_str(), text.texts[d].empty() ? "" : ")",
                  declared_text(text).c_str(), shape_text(r.inputs[i].shape, r.inputs[i].ndim).c_str());
    }
  return Status();
}

Status Session::find_layout(uint32_t entry) {
  for (const std::unique_ptr<Layout>& l : layouts_) {
    if (l->entry != entry || l->key != bindings_.symbols) continue;
    layout_ = l.get();
    return reserve_memory();
  }
  std::unique_ptr<Layout> built;
  MRT_TRY(build_layout(*program_, entry, bindings_, threads_, &built));
  if (layouts_.size() < layout_limit_) {
    layouts_.push_back(std::move(built));
    layout_ = layouts_.back().get();
  } else {
    auto oldest = std::min_element(layouts_.begin(), layouts_.end(),
                                   [](const auto& a, const auto& b) { return a->last_used < b->last_used; });
    *oldest = std::move(built);
    layout_ = oldest->get();
  }
  return reserve_memory();
}

Status Session::reserve_memory() {
  Layout* l = layout_;
  const size_t need = l->arena_bytes + l->scratch_bytes + kAlignment;
  if (!arena_.reserve(need)) {
    layout_ = nullptr;
    return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for the %zu bytes that these shapes need", need);
  }
  if (l->arena_base != arena_.data()) {
    l->arena_base = arena_.data();
    for (const Patch& p : l->arena_patches) *p.where = l->arena_base + p.offset;
  }
  return Status();
}

}  // namespace mrt
