/* Stands for a code section in tests: functions in the calling convention of generated code, with the same undefined
 * needs (three weak hooks and an error hook that the loader fills). */
#include <stddef.h>
#include <stdint.h>

typedef struct {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
} Tensor;

typedef struct {
  int32_t type;
  uint32_t padding;
  union {
    int64_t i;
    Tensor* t;
  } v;
} Any;

typedef struct {
  void* sync;
  int32_t num_task;
} Env;

__attribute__((visibility("default"))) int (*__TVMBackendParallelLaunch)(int (*)(int, Env*, void*), void*, int);
__attribute__((visibility("default"))) void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
__attribute__((visibility("default"))) int (*__TVMBackendFreeWorkspace)(int, int, void*);
__attribute__((visibility("default"))) void (*__mrt_error_set_raised)(const char*, const char**, int32_t);

static int64_t count(const Tensor* t) {
  int64_t n = 1;
  for (int32_t d = 0; d < t->ndim; ++d) n *= t->shape[d];
  return n;
}

static int bad(const char* a, const char* b) {
  const char* parts[] = {a, NULL, b};
  __mrt_error_set_raised("ValueError", parts, 3);
  return -1;
}

#define EXPORT __attribute__((visibility("default")))

/* out = a + b, element by element; b may be a scalar. */
EXPORT int __tvm_ffi_add(void* self, const Any* args, int32_t n, Any* ret) {
  (void)self, (void)ret;
  if (n != 3 || args[0].type != 7 || args[2].type != 7) return bad("add takes ", "three tensors");
  const Tensor *a = args[0].v.t, *b = args[1].v.t, *out = args[2].v.t;
  const int64_t size = count(out);
  if (count(a) != size || out->strides == NULL) return bad("shapes of add ", "differ");
  for (int64_t i = 0; i < size; ++i)
    ((float*)out->data)[i] = ((const float*)a->data)[i] + ((const float*)b->data)[count(b) == 1 ? 0 : i];
  return 0;
}

/* out = a * expression, in parallel, through a workspace. */
typedef struct {
  const float* in;
  float* out;
  float factor;
  int64_t size;
} Scale;
static int scale_task(int task, Env* env, void* data) {
  const Scale* s = (const Scale*)data;
  float* buffer = (float*)__TVMBackendAllocWorkspace(1, 0, 4096, 2, 32);
  if (!buffer) return -1;
  const int64_t begin = s->size * task / env->num_task, end = s->size * (task + 1) / env->num_task;
  for (int64_t i = begin; i < end; ++i) {
    buffer[i % 1024] = s->in[i];
    s->out[i] = buffer[i % 1024] * s->factor;
  }
  return __TVMBackendFreeWorkspace(1, 0, buffer);
}
EXPORT int __tvm_ffi_scale(void* self, const Any* args, int32_t n, Any* ret) {
  (void)self, (void)ret;
  if (n != 3 || args[2].type != 1) return bad("scale takes ", "two tensors and a number");
  Scale s = {(const float*)args[0].v.t->data, (float*)args[1].v.t->data, (float)args[2].v.i, count(args[1].v.t)};
  return __TVMBackendParallelLaunch(scale_task, &s, 0);
}

/* out (bool scalar) = a[0] < b[0]. */
EXPORT int __tvm_ffi_less(void* self, const Any* args, int32_t n, Any* ret) {
  (void)self, (void)n, (void)ret;
  *(uint8_t*)args[2].v.t->data = ((const float*)args[0].v.t->data)[0] < ((const float*)args[1].v.t->data)[0];
  return 0;
}

/* out (int64 scalar) = number of positive elements of a. */
EXPORT int __tvm_ffi_count_positive(void* self, const Any* args, int32_t n, Any* ret) {
  (void)self, (void)n, (void)ret;
  int64_t positive = 0;
  for (int64_t i = 0; i < count(args[0].v.t); ++i) positive += ((const float*)args[0].v.t->data)[i] > 0;
  *(int64_t*)args[1].v.t->data = positive;
  return 0;
}

/* out (as many as are positive) = the positive elements of a. */
EXPORT int __tvm_ffi_take_positive(void* self, const Any* args, int32_t n, Any* ret) {
  (void)self, (void)n, (void)ret;
  float* out = (float*)args[1].v.t->data;
  int64_t room = count(args[1].v.t);
  for (int64_t i = 0; i < count(args[0].v.t); ++i) {
    const float x = ((const float*)args[0].v.t->data)[i];
    if (x > 0 && room-- > 0) *out++ = x;
  }
  return 0;
}

EXPORT int __tvm_ffi_always_fails(void* self, const Any* args, int32_t n, Any* ret) {
  (void)self, (void)args, (void)n, (void)ret;
  return bad("it is wrong\n", "on purpose");
}

/* Sets the byte that its first argument is: a cancel flag, so that the run ends behind this step. */
EXPORT int __tvm_ffi_raises_flag(void* self, const Any* args, int32_t n, Any* ret) {
  (void)self, (void)n, (void)ret;
  *(uint8_t*)args[0].v.t->data = 1;
  return 0;
}
