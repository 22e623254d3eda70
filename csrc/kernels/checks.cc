// The checks that drivers share; see checks.h.
#include "kernels/checks.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace mrt {

Status attr_int(const Attrs& attrs, const char* contract, const char* key, int64_t lo, int64_t hi, int64_t* out) {
  return attr_ints(attrs, contract, key, 1, lo, hi, out);
}

Status attr_ints(const Attrs& attrs, const char* contract, const char* key, size_t n, int64_t lo, int64_t hi,
                 int64_t* out) {
  int64_t values[16];
  int32_t count = 0;
  if (n > 16) return fail(MRT_ERROR_INTERNAL, "%s: attribute '%s' is read as more than 16 integers", contract, key);
  MRT_TRY(attr_list(attrs, contract, key, 16, lo, hi, values, &count));
  if (count < 0) return Status();
  if (static_cast<size_t>(count) != n) {
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: attribute '%s' has %d integers, expected %zu", contract, key, count,
                n);
  }
  for (size_t i = 0; i < n; ++i) out[i] = values[i];
  return Status();
}

Status attr_list(const Attrs& attrs, const char* contract, const char* key, size_t max_n, int64_t lo, int64_t hi,
                 int64_t* out, int32_t* n) {
  const int64_t* values = nullptr;
  size_t count = 0;
  *n = -1;
  if (!attrs.ints(key, &values, &count)) return Status();
  if (count > max_n) {
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: attribute '%s' has %zu integers, expected at most %zu", contract, key,
                count, max_n);
  }
  for (size_t i = 0; i < count; ++i) {
    if (values[i] < lo || values[i] > hi) {
      return fail(MRT_ERROR_INVALID_ARGUMENT,
                  "%s: attribute '%s' holds %" PRId64 ", expected a value from %" PRId64 " to %" PRId64, contract, key,
                  values[i], lo, hi);
    }
    out[i] = values[i];
  }
  *n = static_cast<int32_t>(count);
  return Status();
}

Status hint_int(const Attrs& attrs, const char* contract, const char* key, int64_t lo, int64_t hi, int64_t* out) {
  const char* hint = nullptr;
  if (!attrs.text("hint", &hint)) return Status();
  const size_t length = std::strlen(key);
  for (const char* at = hint; *at != '\0';) {
    const size_t word = std::strcspn(at, " ");
    if (word > length && std::strncmp(at, key, length) == 0 && at[length] == '=') {
      char* end = nullptr;
      const long long value = std::strtoll(at + length + 1, &end, 10);  // of text too long for it, the nearest there is
      if (end != at + word || value < lo || value > hi) {
        return fail(MRT_ERROR_INVALID_ARGUMENT,
                    "%s: the hint says %.*s, expected a number from %" PRId64 " to %" PRId64, contract,
                    static_cast<int>(std::min<size_t>(word, 64)), at, lo, hi);
      }
      *out = value;
    }
    at += word;
    at += std::strspn(at, " ");
  }
  return Status();
}

Status attr_float(const Attrs& attrs, const char* contract, const char* key, double* out) {
  const double* values = nullptr;
  const int64_t* integers = nullptr;
  size_t n = 0;
  double value;
  if (attrs.floats(key, &values, &n) && n == 1) {
    value = values[0];
  } else if (attrs.ints(key, &integers, &n) && n == 1) {
    value = static_cast<double>(integers[0]);
  } else if (n != 0) {
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: attribute '%s' has %zu numbers, expected one", contract, key, n);
  } else {
    return Status();
  }
  if (!std::isfinite(value)) {
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: attribute '%s' is not finite", contract, key);
  }
  *out = value;
  return Status();
}

Status attr_choice(const Attrs& attrs, const char* contract, const char* key, const char* const* choices,
                   int32_t* out) {
  const char* text = nullptr;
  if (!attrs.text(key, &text) || text == nullptr) return Status();
  for (int32_t i = 0; choices[i] != nullptr; ++i) {
    if (std::strcmp(text, choices[i]) == 0) {
      *out = i;
      return Status();
    }
  }
  std::string list;
  for (int32_t i = 0; choices[i] != nullptr; ++i) list += (i == 0 ? "'" : ", '") + std::string(choices[i]) + "'";
  return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: attribute '%s' is '%.64s', expected one of %s", contract, key, text,
              list.c_str());
}

int64_t checked_mul(int64_t a, int64_t b) {
  int64_t r;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &r) || r >= (int64_t{1} << 62)) return -1;
  return r;
}

Status check_tensor(const char* contract, const char* name, const Tensor& t, int32_t ndim) {
  if (t.absent()) return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: %s is absent, but it is needed", contract, name);
  if ((ndim >= 0 && t.ndim != ndim) || t.ndim > MRT_MAX_RANK) {
    return fail(MRT_ERROR_SHAPE, "%s: %s has %d dimensions, expected %d", contract, name, t.ndim,
                ndim < 0 ? MRT_MAX_RANK : ndim);
  }
  int64_t bytes = static_cast<int64_t>(t.dtype.bytes());
  bool empty = false;
  for (int32_t i = 0; i < t.ndim; ++i) {
    if (t.shape[i] < 0) {
      return fail(MRT_ERROR_SHAPE, "%s: %s has extent %" PRId64 " in dimension %d", contract, name, t.shape[i], i);
    }
    empty = empty || t.shape[i] == 0;
  }
  for (int32_t i = 0; i < t.ndim && !empty; ++i) bytes = checked_mul(bytes, t.shape[i]);
  if (empty) bytes = 0;
  if (bytes < 0) return fail(MRT_ERROR_SHAPE, "%s: the extents of %s are too large to address", contract, name);
  if (static_cast<uint64_t>(bytes) > t.bytes) {
    return fail(MRT_ERROR_SHAPE, "%s: %s holds %zu bytes, its shape needs %" PRId64, contract, name, t.bytes, bytes);
  }
  return Status();
}

Status check_dtype(const char* contract, const char* name, const Tensor& t, int32_t ndim, DType dtype,
                   const char* expected) {
  MRT_TRY(check_tensor(contract, name, t, ndim));
  if (t.dtype == dtype) return Status();
  return fail(MRT_ERROR_DTYPE, "%s: %s has elements of type code %d with %d bits, expected %s", contract, name,
              t.dtype.code, t.dtype.bits, expected);
}

Status check_f32(const char* contract, const char* name, const Tensor& t, int32_t ndim) {
  return check_dtype(contract, name, t, ndim, kFloat32, "float32");
}
Status check_u8(const char* contract, const char* name, const Tensor& t, int32_t ndim) {
  return check_dtype(contract, name, t, ndim, {MRT_UINT, 8}, "uint8");
}
Status check_s8(const char* contract, const char* name, const Tensor& t, int32_t ndim) {
  return check_dtype(contract, name, t, ndim, {MRT_INT, 8}, "int8");
}

Status check_extent(const char* contract, const char* name, const Tensor& t, int32_t dim, int64_t expected) {
  if (t.shape[dim] == expected) return Status();
  return fail(MRT_ERROR_SHAPE, "%s: %s has extent %" PRId64 " in dimension %d, expected %" PRId64, contract, name,
              t.shape[dim], dim, expected);
}

Status check_same_shape(const char* contract, const char* name, const Tensor& t, const Tensor& like) {
  MRT_TRY(check_tensor(contract, name, t, like.ndim));
  for (int32_t i = 0; i < like.ndim; ++i) MRT_TRY(check_extent(contract, name, t, i, like.shape[i]));
  return Status();
}

}  // namespace mrt
