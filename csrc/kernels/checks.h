// What drivers share: reading attributes, checking tensors, splitting work over threads.
//
// A step comes from a file that may be damaged or hostile: everything that `run` relies on is checked through these
// before, and each failure is one sentence that names the contract and the operand.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/kernel.h"

namespace mrt {

// ---- attributes ----
// As the call's contract states them. Where the key is absent `out` becomes the default; where that is derived, it
// stays.

// As many integers as the contract says; attr_int is for one.
Status attr_ints(const Attrs& attrs, const char* key, int64_t* out);
inline Status attr_int(const Attrs& attrs, const char* key, int64_t* out) { return attr_ints(attrs, key, out); }
// A list of integers; *n is its length, -1 where the key is absent.
Status attr_list(const Attrs& attrs, const char* key, int64_t* out, int32_t* n);
// The same of numbers (integers are taken as well), and one of them.
Status attr_numbers(const Attrs& attrs, const char* key, double* out, int32_t* n);
Status attr_float(const Attrs& attrs, const char* key, double* out);
// *out is the index of the text in the choices.
Status attr_choice(const Attrs& attrs, const char* key, int32_t* out);
// The number that the step's hint, "key=number key=number", gives to `key`. Other keys are another version's.
Status hint_int(const Attrs& attrs, const char* key, int64_t* out);

// ---- tensors: what a contract does not say of them ----

// Present, ndim dimensions (-1: any), no negative extent, a byte size that fits in 63 bits and that `bytes` covers.
Status check_tensor(const char* contract, const char* name, const Tensor& t, int32_t ndim);
Status check_extent(const char* contract, const char* name, const Tensor& t, int32_t dim, int64_t expected);
Status check_same_shape(const char* contract, const char* name, const Tensor& t, const Tensor& like);

inline bool present(const Tensor* t, int n, int index) { return index < n && !t[index].absent(); }

// With one extent of 0 the others may be anything: no product of them is taken.
inline bool has_no_elements(const Tensor& t) {
  for (int32_t i = 0; i < t.ndim; ++i) {
    if (t.shape[i] == 0) return true;
  }
  return false;
}
inline double element_count(const Tensor& t) {
  double n = 1;
  for (int32_t i = 0; i < t.ndim; ++i) n *= static_cast<double>(t.shape[i]);
  return n;
}

// a * b, or -1 where that (or an operand) is not in [0, 2^62).
int64_t checked_mul(int64_t a, int64_t b);

inline int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

// ---- threads ----

// Into how many pieces work of so many operations has to be cut at least, so that each takes some milliseconds: 1 where
// nothing can end the run meanwhile.
inline int64_t pieces_to_leave(const KernelContext& ctx, double work) {
  constexpr double kPiece = 1 << 26, kMaxPieces = 1 << 20;
  return ctx.watch == nullptr ? 1 : 1 + static_cast<int64_t>(std::min(work / kPiece, kMaxPieces));
}

// A body of such work, body(a, b): taken by reference, so that there is one copy of it, however many ways lead there.
class Body {
 public:
  template <typename F, typename = std::enable_if_t<!std::is_same_v<std::decay_t<F>, Body>>>
  Body(F&& body)  // NOLINT: made where a body is given
      : user_(const_cast<void*>(static_cast<const void*>(&body))),
        call_([](void* user, int64_t a, int64_t b) { (*static_cast<std::remove_reference_t<F>*>(user))(a, b); }) {}
  void operator()(int64_t a, int64_t b) const { call_(user_, a, b); }

 private:
  void* user_;
  void (*call_)(void* user, int64_t a, int64_t b);
};

// body(worker, item) for items [0, n) on at most `workers` threads. A run that has to end meanwhile leaves the kernel
// from here, also if an item was left halfway: what it and the others would have written is never read.
void parallel_items(KernelContext& ctx, int64_t n, int64_t workers, const Body& body);

// body(begin, end) over [0, n) in pieces of at least `grain`; one thread where there is one piece. Where the run may
// have to end meanwhile, a piece is at most a few hundred grains, and one item where that alone is a grain or more.
void parallel_ranges(KernelContext& ctx, int64_t n, int64_t grain, const Body& body);

// Scratch is handed out in pieces of whole cache lines.
inline size_t align64(size_t bytes) { return (bytes + 63) & ~static_cast<size_t>(63); }

}  // namespace mrt
