// Expressions: checked arithmetic, text, bounds, linear forms.
#include <climits>

#include "runtime/expr.h"
#include "tests/check.h"
#include "tests/file_builder.h"

using namespace mrt;
using namespace mrt::test;
using plan::ExprOp;

namespace {

struct Evaluated {
  int64_t value;
  Known known;
};

Evaluated binary(ExprOp op, int64_t a, int64_t b) {
  PlanBuilder p;
  const uint32_t x = p.symbol("x"), y = p.symbol("y");
  const uint32_t e = p.expr(op, p.of(x), p.of(y));
  ExprTable table;
  table.init(p.plan);
  Bindings bindings;
  table.reset(&bindings);
  bindings.symbols = {a, b};
  bindings.symbol_known = {1, 1};
  table.evaluate(&bindings);
  return {bindings.exprs[e].value, bindings.exprs[e].known};
}

}  // namespace

TEST(expr, division_rounds_as_python_does) {
  for (const int64_t a : {-7, -6, -1, 0, 1, 6, 7})
    for (const int64_t b : {-3, -2, 2, 3}) {
      const int64_t q = binary(ExprOp::floordiv, a, b).value, r = binary(ExprOp::floormod, a, b).value;
      CHECK_EQ(q * b + r, a);
      CHECK(r == 0 || (r < 0) == (b < 0));
      CHECK(binary(ExprOp::ceildiv, a, b).value == -binary(ExprOp::floordiv, -a, b).value);
    }
}

TEST(expr, overflow_and_division_by_zero) {
  CHECK(binary(ExprOp::add, INT64_MAX, 1).known == Known::overflow);
  CHECK(binary(ExprOp::sub, INT64_MIN, 1).known == Known::overflow);
  CHECK(binary(ExprOp::mul, int64_t{1} << 40, int64_t{1} << 40).known == Known::overflow);
  CHECK(binary(ExprOp::floordiv, 1, 0).known == Known::division);
  CHECK(binary(ExprOp::floormod, 1, 0).known == Known::division);
  CHECK(binary(ExprOp::ceildiv, 1, 0).known == Known::division);
  CHECK(binary(ExprOp::floordiv, INT64_MIN, -1).known == Known::overflow);
  CHECK(binary(ExprOp::ceildiv, INT64_MIN, -1).known == Known::overflow);
  CHECK(binary(ExprOp::floormod, INT64_MIN, -1).known == Known::yes);
  CHECK_EQ(binary(ExprOp::floormod, INT64_MIN, -1).value, int64_t{0});
}

TEST(expr, comparisons_and_logic) {
  CHECK_EQ(binary(ExprOp::min, 3, 5).value, int64_t{3});
  CHECK_EQ(binary(ExprOp::max, 3, 5).value, int64_t{5});
  CHECK_EQ(binary(ExprOp::eq, 3, 3).value, int64_t{1});
  CHECK_EQ(binary(ExprOp::lt, 3, 3).value, int64_t{0});
  CHECK_EQ(binary(ExprOp::le, 3, 3).value, int64_t{1});
  CHECK_EQ(binary(ExprOp::logical_and, 2, 0).value, int64_t{0});
  CHECK_EQ(binary(ExprOp::logical_or, 2, 0).value, int64_t{1});
  CHECK_EQ(binary(ExprOp::logical_not, 2, 0).value, int64_t{0});
}

TEST(expr, text) {
  PlanBuilder p;
  const uint32_t s = p.of(p.symbol("s")), two = p.fixed(2), one = p.fixed(1);
  const uint32_t twice = p.expr(ExprOp::mul, two, s);
  const uint32_t odd = p.expr(ExprOp::add, twice, one);
  const uint32_t nested = p.expr(ExprOp::mul, odd, two);
  const uint32_t minus = p.expr(ExprOp::sub, s, odd);
  const uint32_t call = p.expr(ExprOp::ceildiv, odd, two);
  ExprTable table;
  table.init(p.plan);
  CHECK_EQ(table.text(odd), "2*s+1");
  CHECK_EQ(table.text(nested), "(2*s+1)*2");
  CHECK_EQ(table.text(minus), "s-(2*s+1)");
  CHECK_EQ(table.text(call), "ceildiv(2*s+1, 2)");
}

TEST(expr, linear_and_bounds) {
  PlanBuilder p;
  const uint32_t s = p.of(p.symbol("s", 2, 10)), two = p.fixed(2), one = p.fixed(1);
  const uint32_t odd = p.expr(ExprOp::add, p.expr(ExprOp::mul, two, s), one);
  const uint32_t back = p.expr(ExprOp::sub, two, p.expr(ExprOp::mul, s, two));
  const uint32_t square = p.expr(ExprOp::mul, s, s);
  ExprTable table;
  table.init(p.plan);
  uint32_t symbol = 9;
  int64_t scale = 0, offset = 0, min = 0, max = 0;
  CHECK(table.linear(odd, &symbol, &scale, &offset));
  CHECK(symbol == 0 && scale == 2 && offset == 1);
  CHECK(table.linear(back, &symbol, &scale, &offset));
  CHECK(scale == -2 && offset == 2);
  CHECK(!table.linear(square, &symbol, &scale, &offset));
  CHECK(!table.linear(two, &symbol, &scale, &offset));
  table.bounds(odd, &min, &max);
  CHECK(min == 5 && max == 21);
  table.bounds(square, &min, &max);
  CHECK(min == 0 && max == -1);
}

// 100,000 nested operations neither recurse nor print without end.
TEST(expr, deep) {
  PlanBuilder p;
  uint32_t e = p.of(p.symbol("s"));
  const uint32_t one = p.fixed(1);
  for (int i = 0; i < 100000; ++i) e = p.expr(ExprOp::add, e, one);
  ExprTable table;
  table.init(p.plan);
  CHECK(table.text(e).size() < 400000);
  uint32_t symbol = 0;
  int64_t scale = 0, offset = 0;
  CHECK(table.linear(e, &symbol, &scale, &offset));
  CHECK_EQ(offset, int64_t{100000});
}
