// mrt_kernels_json: the contracts and kernels of this build, as the compiler, the tests and the docs read them.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "base/cpu.h"
#include "capi/boundary.h"
#include "kernels/kernel.h"

namespace {

using namespace mrt;

// Objects and lists, value by value. Names come from contracts: nothing in them needs escaping.
class Json {
 public:
  std::string text;

  void open(char bracket) {
    separate();
    text += bracket;
    first_ = true;
  }
  void close(char bracket) {
    text += bracket;
    first_ = false;
  }
  void key(const char* name) {
    string(name);
    text += ':';
    first_ = true;
  }
  void string(const std::string& value) { raw('"' + value + '"'); }
  void raw(const std::string& value) {
    separate();
    text += value;
  }
  void number(const char* name, double value) {
    char digits[32];
    std::snprintf(digits, sizeof(digits), "%.17g", value);
    key(name);
    raw(digits);
  }
  void flag(const char* name, bool set) {
    if (!set) return;
    key(name);
    raw("true");
  }
  // A list of the words that `separators` part.
  void words(const char* name, const char* list, const char* separators) {
    key(name);
    open('[');
    for (const char* at = list; *at != '\0'; at += std::strspn(at, separators)) {
      const size_t n = std::strcspn(at, separators);
      string(std::string(at, n));
      at += n;
    }
    close(']');
  }

 private:
  void separate() {
    if (!first_) text += ',';
    first_ = false;
  }
  bool first_ = true;
};

void operands(Json* json, const char* name, const Operand* list, int n) {
  json->key(name);
  json->open('[');
  for (int i = 0; i < n; ++i) {
    const Operand& o = list[i];
    json->open('{');
    json->key("name");
    json->string(o.name);
    if (o.dtypes & (kLikeFirst | kLikeSecond)) json->number("like", o.dtypes == kLikeFirst ? 0 : 1);
    if (o.dtypes & kOrdered) json->words("dtypes", dtype_names(o.dtypes, ", ").c_str(), ", ");
    if (o.rank != kAnyRank) json->number("rank", o.rank);
    json->flag("optional", o.is(kOptional));
    json->flag("packed", o.is(kPacked));
    json->flag("bias", o.is(kBias));
    json->flag("residual", o.is(kResidual));
    json->flag("batched", o.is(kBatched));
    json->flag("repeated", o.is(kRepeated));
    json->close('}');
  }
  json->close(']');
}

void attribute(Json* json, const Attribute& a) {
  static const char* const kKinds[] = {"integers", "numbers", "choice", "hint"};
  json->key(a.name);
  json->open('{');
  json->key("kind");
  json->string(kKinds[static_cast<size_t>(a.kind)]);
  if (a.choices != nullptr) {
    json->words("choices", a.choices, " ");
  } else {
    json->number("count", a.count);
    if (std::isfinite(a.lo)) json->number("lo", a.lo);
    if (std::isfinite(a.hi)) json->number("hi", a.hi);
    if (a.step != 1) json->number("step", a.step);
    if (!a.is(kNeeded) && !a.is(kDerived)) json->number("default", a.value);
  }
  json->flag("needed", a.is(kNeeded));
  json->flag("derived", a.is(kDerived));
  json->flag("packing_only", a.is(kPackingOnly));
  json->flag("infinite", a.is(kInfinite));
  json->flag("listed", a.is(kListed));
  json->close('}');
}

void contract(Json* json, const Operator& op) {
  const Contract& c = *op.contract;
  json->key(c.name);
  json->open('{');
  json->key("attributes");
  json->open('{');
  for (const Contract::List& list : c.attributes)
    for (size_t i = 0; i < list.count; ++i) attribute(json, list.rows[i]);
  json->close('}');
  operands(json, "inputs", c.inputs, c.input_count);
  json->key("kernels");
  json->open('[');
  for (const mrt::Kernel* k = op.kernels; k->name != nullptr; ++k) {
    json->open('{');
    json->key("isa");
    json->string(isa_name(k->isa));
    json->key("name");
    json->string(std::string(c.name) + "_" + k->name);
    json->close('}');
  }
  json->close(']');
  operands(json, "outputs", c.outputs, c.output_count);
  json->words("packings", c.packings, " ");
  json->number("version", 1);
  json->close('}');
}

std::string registry() {
  Json json;
  json.open('{');
  json.key("contracts");
  json.open('{');
  size_t count = 0;
  const Operator* const* all = operators(&count);
  for (size_t i = 0; i < count; ++i) contract(&json, *all[i]);
  json.close('}');
  json.key("isa");
  json.string(mrt_cpu_isa());
  json.key("isas");
  json.open('[');
  for (size_t i = sizeof(mrt::kIsas) / sizeof(mrt::kIsas[0]); i-- > 0;)
    if (allows(mrt::bound_isa(), mrt::kIsas[i])) json.string(isa_name(mrt::kIsas[i]));
  json.close(']');
  json.key("level");
  json.string(mrt_cpu_level());
  json.key("version");
  json.string(mrt_version());
  json.close('}');
  return json.text;
}

}  // namespace

extern "C" const char* mrt_kernels_json(void) {
  return mrt::guard_value("{}", [] {
    static const std::string json = registry();
    return json.c_str();
  });
}
