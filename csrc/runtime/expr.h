// Expressions over symbols: checked 64-bit evaluation, text and bounds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "artifact/plan.h"
#include "base/status.h"

namespace mrt {

// What evaluation of an expression came to.
enum class Known : uint8_t {
  no,  // a symbol in it has no value yet
  yes,
  overflow,
  division  // by zero
};

struct ExprValue {
  int64_t value = 0;
  Known known = Known::no;
};

// Values of symbols and expressions, as far as they are known, in one binding.
struct Bindings {
  std::vector<int64_t> symbols;
  std::vector<uint8_t> symbol_known;
  std::vector<ExprValue> exprs;
};

class ExprTable {
 public:
  // The plan outlives the table and was validated (operands are earlier expressions, symbols exist).
  void init(const plan::Plan& plan);

  void reset(Bindings* b) const;
  // Evaluates all expressions with the symbols that are known.
  void evaluate(Bindings* b) const;
  // Evaluates those that depend on one symbol.
  void evaluate_dependents(uint32_t symbol, Bindings* b) const;

  // Whether expression e depends on a symbol that is marked.
  bool depends(uint32_t e, const std::vector<uint8_t>& marked_symbols) const;
  // The same for one symbol.
  bool depends_on(uint32_t e, uint32_t symbol) const;
  // Whether e is a comparison, or joins some: 1 where it holds, else 0.
  bool is_truth(uint32_t e) const;
  // If e is scale * symbol + offset with scale != 0.
  bool linear(uint32_t e, uint32_t* symbol, int64_t* scale, int64_t* offset) const;
  // e is constant.
  bool constant(uint32_t e, int64_t* value) const;
  // The text of an expression, cut short if it is very long.
  std::string text(uint32_t e) const;
  // Smallest and largest value for symbols within their bounds; max -1: not bounded or not known.
  void bounds(uint32_t e, int64_t* min, int64_t* max) const;
  const char* symbol_name(uint32_t s) const { return plan_->symbols[s].name.c_str(); }

 private:
  ExprValue step(const plan::Expr& expr, const Bindings& b) const;

  const plan::Plan* plan_ = nullptr;
  std::vector<ExprValue> constants_;               // yes for expressions without symbols
  std::vector<std::vector<uint32_t>> dependents_;  // by symbol, ascending
};

// Whether a symbol of that description may have the value.
bool symbol_allows(const plan::Symbol& symbol, int64_t value);
// "1 to 32", "a multiple of 8, at least 8": what the symbol allows.
std::string symbol_range(const plan::Symbol& symbol);

inline bool checked_mul(int64_t a, int64_t b, int64_t* out) { return !__builtin_mul_overflow(a, b, out); }
inline bool checked_add(int64_t a, int64_t b, int64_t* out) { return !__builtin_add_overflow(a, b, out); }

}  // namespace mrt
