// Attributes by name, from a plan's records or from the C API's array.
#pragma once

#include <cstring>

#include "artifact/plan.h"
#include "kernels/kernel.h"

namespace mrt {

// Those of a step; "packing" and "hint" of the step can be asked for as text.
class StepAttrs final : public Attrs {
 public:
  explicit StepAttrs(const plan::Step& step, const Contract* contract = nullptr) : Attrs(contract), step_(step) {}
  bool ints(const char* key, const int64_t** out, size_t* n) const override {
    const plan::Attr* a = find(key);
    if (!a || (a->ints.empty() && !(a->floats.empty() && a->text.empty()))) return false;
    *out = a->ints.data();
    *n = a->ints.size();
    return true;
  }
  bool floats(const char* key, const double** out, size_t* n) const override {
    const plan::Attr* a = find(key);
    if (!a || (a->floats.empty() && !(a->ints.empty() && a->text.empty()))) return false;
    *out = a->floats.data();
    *n = a->floats.size();
    return true;
  }
  bool text(const char* key, const char** out) const override {
    const plan::Attr* a = find(key);
    if (a && (!a->text.empty() || (a->ints.empty() && a->floats.empty()))) {
      *out = a->text.c_str();
      return true;
    }
    const std::string* own = std::strcmp(key, "packing") == 0 ? &step_.packing
                             : std::strcmp(key, "hint") == 0  ? &step_.hint
                                                              : nullptr;
    if (!own || own->empty()) return false;
    *out = own->c_str();
    return true;
  }
  const char* key(size_t i) const override { return i < step_.attrs.size() ? step_.attrs[i].key.c_str() : nullptr; }

 private:
  const plan::Attr* find(const char* key) const {
    for (const plan::Attr& a : step_.attrs)
      if (a.key == key) return &a;
    return nullptr;
  }
  const plan::Step& step_;
};

// Those of a C caller.
class ArrayAttrs final : public Attrs {
 public:
  ArrayAttrs(const Contract* contract, const mrt_attr* attrs, size_t count)
      : Attrs(contract), attrs_(attrs), count_(count) {}
  bool ints(const char* key, const int64_t** out, size_t* n) const override {
    for (size_t i = 0; i < count_; ++i) {
      if (std::strcmp(attrs_[i].key, key) != 0 || (!attrs_[i].ints && !empty(attrs_[i]))) continue;
      *out = attrs_[i].ints;
      *n = attrs_[i].n;
      return true;
    }
    return false;
  }
  bool floats(const char* key, const double** out, size_t* n) const override {
    for (size_t i = 0; i < count_; ++i) {
      if (std::strcmp(attrs_[i].key, key) != 0 || (!attrs_[i].floats && !empty(attrs_[i]))) continue;
      *out = attrs_[i].floats;
      *n = attrs_[i].n;
      return true;
    }
    return false;
  }
  bool text(const char* key, const char** out) const override {
    for (size_t i = 0; i < count_; ++i) {
      if (std::strcmp(attrs_[i].key, key) != 0 || !attrs_[i].str) continue;
      *out = attrs_[i].str;
      return true;
    }
    return false;
  }
  const char* key(size_t i) const override { return i < count_ ? attrs_[i].key : nullptr; }

 private:
  static bool empty(const mrt_attr& a) { return a.n == 0 && !a.str && !a.ints && !a.floats; }
  const mrt_attr* attrs_;
  size_t count_;
};

}  // namespace mrt
