#include "runtime/expr.h"

#include <algorithm>
#include <limits>

namespace mrt {
namespace {

using plan::ExprOp;

bool is_unary(ExprOp op) { return op == ExprOp::logical_not; }

// Rounds towards minus infinity, as Python does; the one case that overflows is refused by the caller.
int64_t floor_div(int64_t a, int64_t b) {
  const int64_t q = a / b;
  return (a % b != 0 && (a < 0) != (b < 0)) ? q - 1 : q;
}

ExprValue apply(ExprOp op, int64_t a, int64_t b) {
  ExprValue r{0, Known::yes};
  bool fits = true;
  switch (op) {
    case ExprOp::add:
      fits = !__builtin_add_overflow(a, b, &r.value);
      break;
    case ExprOp::sub:
      fits = !__builtin_sub_overflow(a, b, &r.value);
      break;
    case ExprOp::mul:
      fits = !__builtin_mul_overflow(a, b, &r.value);
      break;
    case ExprOp::floordiv:
    case ExprOp::floormod:
    case ExprOp::ceildiv:
      if (b == 0) return {0, Known::division};
      if (a == std::numeric_limits<int64_t>::min() && b == -1) {
        if (op != ExprOp::floormod) return {0, Known::overflow};
        break;  // the remainder is 0
      }
      if (op == ExprOp::floordiv) r.value = floor_div(a, b);
      if (op == ExprOp::floormod) r.value = a - floor_div(a, b) * b;
      if (op == ExprOp::ceildiv) r.value = floor_div(a, b) + (a % b != 0 ? 1 : 0);
      break;
    case ExprOp::min:
      r.value = std::min(a, b);
      break;
    case ExprOp::max:
      r.value = std::max(a, b);
      break;
    case ExprOp::eq:
      r.value = a == b;
      break;
    case ExprOp::lt:
      r.value = a < b;
      break;
    case ExprOp::le:
      r.value = a <= b;
      break;
    case ExprOp::logical_and:
      r.value = a != 0 && b != 0;
      break;
    case ExprOp::logical_or:
      r.value = a != 0 || b != 0;
      break;
    case ExprOp::logical_not:
      r.value = a == 0;
      break;
    case ExprOp::constant:
    case ExprOp::symbol:
      break;
  }
  if (!fits) return {0, Known::overflow};
  return r;
}

// Text of an operation, and how tightly it binds.
struct Notation {
  const char* infix;  // null: written as a call
  const char* call;
  int strength;
};
Notation notation(ExprOp op) {
  switch (op) {
    case ExprOp::add:
      return {"+", nullptr, 4};
    case ExprOp::sub:
      return {"-", nullptr, 4};
    case ExprOp::mul:
      return {"*", nullptr, 5};
    case ExprOp::floordiv:
      return {"//", nullptr, 5};
    case ExprOp::floormod:
      return {"%", nullptr, 5};
    case ExprOp::eq:
      return {"==", nullptr, 3};
    case ExprOp::lt:
      return {"<", nullptr, 3};
    case ExprOp::le:
      return {"<=", nullptr, 3};
    case ExprOp::logical_and:
      return {" and ", nullptr, 2};
    case ExprOp::logical_or:
      return {" or ", nullptr, 1};
    case ExprOp::logical_not:
      return {nullptr, "not", 9};
    case ExprOp::min:
      return {nullptr, "min", 9};
    case ExprOp::max:
      return {nullptr, "max", 9};
    case ExprOp::ceildiv:
      return {nullptr, "ceildiv", 9};
    case ExprOp::constant:
    case ExprOp::symbol:
      break;
  }
  return {nullptr, "", 9};
}

}  // namespace

void ExprTable::init(const plan::Plan& plan) {
  plan_ = &plan;
  Bindings none;
  reset(&none);
  constants_.assign(plan.exprs.size(), ExprValue());
  for (size_t e = 0; e < plan.exprs.size(); ++e) none.exprs[e] = constants_[e] = step(plan.exprs[e], none);

  // An expression's dependence is that of its operands; kept as one mark per expression and symbol in turn, so that the
  // work is bounded by expressions times symbols and the memory by what really depends.
  dependents_.assign(plan.symbols.size(), {});
  std::vector<uint8_t> mark(plan.exprs.size());
  for (uint32_t s = 0; s < plan.symbols.size(); ++s) {
    std::fill(mark.begin(), mark.end(), 0);
    for (uint32_t e = 0; e < plan.exprs.size(); ++e) {
      const plan::Expr& x = plan.exprs[e];
      const ExprOp op = x.op;
      if (op == ExprOp::symbol)
        mark[e] = x.a == s;
      else if (op != ExprOp::constant)
        mark[e] = mark[static_cast<size_t>(x.a)] || (!is_unary(op) && mark[static_cast<size_t>(x.b)]);
      if (mark[e]) dependents_[s].push_back(e);
    }
  }
}

ExprValue ExprTable::step(const plan::Expr& x, const Bindings& b) const {
  const ExprOp op = x.op;
  if (op == ExprOp::constant) return {x.a, Known::yes};
  if (op == ExprOp::symbol) {
    const size_t s = static_cast<size_t>(x.a);
    return {b.symbols[s], b.symbol_known[s] ? Known::yes : Known::no};
  }
  const ExprValue& left = b.exprs[static_cast<size_t>(x.a)];
  if (left.known != Known::yes) return left;
  if (is_unary(op)) return apply(op, left.value, 0);
  const ExprValue& right = b.exprs[static_cast<size_t>(x.b)];
  if (right.known != Known::yes) return right;
  return apply(op, left.value, right.value);
}

void ExprTable::reset(Bindings* b) const {
  b->symbols.assign(plan_->symbols.size(), 0);
  b->symbol_known.assign(plan_->symbols.size(), 0);
  b->exprs.assign(plan_->exprs.size(), ExprValue());
}

void ExprTable::evaluate(Bindings* b) const {
  for (size_t e = 0; e < plan_->exprs.size(); ++e) b->exprs[e] = step(plan_->exprs[e], *b);
}

void ExprTable::evaluate_dependents(uint32_t symbol, Bindings* b) const {
  for (const uint32_t e : dependents_[symbol]) b->exprs[e] = step(plan_->exprs[e], *b);
}

bool ExprTable::depends(uint32_t e, const std::vector<uint8_t>& marked) const {
  for (size_t s = 0; s < marked.size(); ++s)
    if (marked[s] && depends_on(e, static_cast<uint32_t>(s))) return true;
  return false;
}

bool ExprTable::depends_on(uint32_t e, uint32_t symbol) const {
  return std::binary_search(dependents_[symbol].begin(), dependents_[symbol].end(), e);
}

bool ExprTable::is_truth(uint32_t e) const {
  switch (plan_->exprs[e].op) {
    case ExprOp::eq:
    case ExprOp::lt:
    case ExprOp::le:
    case ExprOp::logical_and:
    case ExprOp::logical_or:
    case ExprOp::logical_not:
      return true;
    default:
      return false;
  }
}

bool ExprTable::constant(uint32_t e, int64_t* value) const {
  *value = constants_[e].value;
  return constants_[e].known == Known::yes;
}

bool ExprTable::linear(uint32_t e, uint32_t* symbol, int64_t* scale, int64_t* offset) const {
  // Peels one operation after the other off the expression: add, subtract and multiply by a constant.
  *scale = 1;
  *offset = 0;
  for (;;) {
    const plan::Expr& x = plan_->exprs[e];
    const ExprOp op = x.op;
    if (op == ExprOp::symbol) {
      *symbol = static_cast<uint32_t>(x.a);
      return *scale != 0;
    }
    if (op != ExprOp::add && op != ExprOp::sub && op != ExprOp::mul) return false;
    const uint32_t a = static_cast<uint32_t>(x.a), b = static_cast<uint32_t>(x.b);
    int64_t c = 0, term = 0;
    const bool right = constant(b, &c);
    if (!right && !constant(a, &c)) return false;
    if (op == ExprOp::mul) {
      if (!checked_mul(*scale, c, scale)) return false;
    } else if (op == ExprOp::add || right) {
      if (!checked_mul(*scale, c, &term)) return false;
      if (op == ExprOp::sub && !checked_mul(term, -1, &term)) return false;
      if (!checked_add(*offset, term, offset)) return false;
    } else {  // constant minus the rest
      if (!checked_mul(*scale, c, &term) || !checked_add(*offset, term, offset)) return false;
      if (!checked_mul(*scale, -1, scale)) return false;
    }
    e = right ? a : b;
  }
}

std::string ExprTable::text(uint32_t e) const {
  // An explicit stack of pieces still to be written: input decides the depth, not the program's stack.
  struct Piece {
    const char* literal;
    uint32_t expr;
    int outer;
  };
  std::string out;
  std::vector<Piece> todo{{nullptr, e, 0}};
  while (!todo.empty()) {
    const Piece piece = todo.back();
    todo.pop_back();
    if (out.size() > 200) return out.substr(0, 200) + "...";
    if (piece.literal) {
      out += piece.literal;
      continue;
    }
    const plan::Expr& x = plan_->exprs[piece.expr];
    const ExprOp op = x.op;
    if (op == ExprOp::constant) {
      out += std::to_string(x.a);
      continue;
    }
    if (op == ExprOp::symbol) {
      out += plan_->symbols[static_cast<size_t>(x.a)].name;
      continue;
    }
    const Notation n = notation(op);
    const uint32_t a = static_cast<uint32_t>(x.a), b = static_cast<uint32_t>(x.b);
    const bool brackets = n.call || n.strength < piece.outer;
    if (n.call) out += n.call;
    if (brackets) {
      out += "(";
      todo.push_back({")", 0, 0});
    }
    if (!is_unary(op)) {
      todo.push_back({nullptr, b, n.call ? 0 : n.strength + 1});
      todo.push_back({n.call ? ", " : n.infix, 0, 0});
    }
    todo.push_back({nullptr, a, n.call ? 0 : n.strength});
  }
  return out;
}

void ExprTable::bounds(uint32_t e, int64_t* min, int64_t* max) const {
  *min = 0;
  *max = -1;
  int64_t value = 0;
  if (constant(e, &value)) {
    *min = *max = value;
    return;
  }
  uint32_t s = 0;
  int64_t scale = 0, offset = 0;
  if (!linear(e, &s, &scale, &offset)) return;
  const plan::Symbol& symbol = plan_->symbols[s];
  int64_t low = 0, high = -1;
  const bool low_ok = checked_mul(symbol.min, scale, &low) && checked_add(low, offset, &low);
  const bool high_ok = symbol.max >= 0 && checked_mul(symbol.max, scale, &high) && checked_add(high, offset, &high);
  if (scale > 0) {
    if (low_ok) *min = std::max<int64_t>(low, 0);
    if (high_ok) *max = std::max<int64_t>(high, 0);
  } else {
    if (high_ok) *min = std::max<int64_t>(high, 0);
    if (low_ok) *max = std::max<int64_t>(low, 0);
  }
}

bool symbol_allows(const plan::Symbol& symbol, int64_t value) {
  return value >= symbol.min && (symbol.max < 0 || value <= symbol.max) && value % symbol.multiple == 0;
}

std::string symbol_range(const plan::Symbol& symbol) {
  std::string range = symbol.max < 0             ? "at least " + std::to_string(symbol.min)
                      : symbol.max == symbol.min ? std::to_string(symbol.min)
                                                 : std::to_string(symbol.min) + " to " + std::to_string(symbol.max);
  if (symbol.multiple > 1) range = "a multiple of " + std::to_string(symbol.multiple) + ", " + range;
  return range;
}

}  // namespace mrt
