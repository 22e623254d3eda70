/* The library at the other end of a pipe: kernels and models run here for a process that cannot load this library,
 * since it is for another CPU and runs under an emulator, or on another board.
 *
 *   maas_rt_remote < requests > answers
 *
 * All numbers are little-endian. A request is a u32 (below) and its fields; an answer is the name of a status (text),
 * its sentence (text), and, after MRT_OK, what the request gives.
 *
 *   text     u32 bytes, the bytes
 *   tensor   i32 rank (-1: absent, and nothing follows), u8 dtype code, u8 bits, i64 extents, u64 bytes, the bytes
 *   attrs    u32 count; of each the key (text), u8 kind (0: i64s, 1: doubles, 2: text), and u32 count and numbers, or
 * text
 *
 *   1 registry                                                          -> text, the JSON of mrt_kernels_json
 *   2 pack     contract, packing (texts), tensor, attrs                 -> tensor of u8
 *   3 run      contract, isa (texts), i32 threads, u32 n, n tensors, u32 m, m tensors of the outputs' shapes, without
 *              bytes (u64 0), attrs                                     -> m tensors
 *   4 load     path (text)                                              -> nothing
 *   5 execute  i32 threads, f64 seconds (0: no limit), u8 seeded, u64 seed, u32 n, n tensors
 *                                                                       -> u32 m, m tensors
 */
#define _POSIX_C_SOURCE 200809L
#include <maas_rt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- reading ---- */

/* What a request holds is freed when it has been answered. */
enum { kMostBlocks = 1 << 16 };
static void* blocks[kMostBlocks];
static size_t block_count;

static void* take(size_t bytes) {
  void* block = NULL;
  if (block_count == kMostBlocks || posix_memalign(&block, 64, bytes ? bytes : 1) != 0) {
    fprintf(stderr, "maas_rt_remote: no memory for a request\n");
    exit(1);
  }
  return blocks[block_count++] = block;
}

static void free_blocks(void) {
  while (block_count) free(blocks[--block_count]);
}

static void read_bytes(void* out, size_t bytes) {
  if (fread(out, 1, bytes, stdin) == bytes) return;
  fprintf(stderr, "maas_rt_remote: the request ends too early\n");
  exit(1);
}

#define READER(name, type)            \
  static type name(void) {            \
    type value;                       \
    read_bytes(&value, sizeof value); \
    return value;                     \
  }
READER(read_u8, uint8_t)
READER(read_u32, uint32_t)
READER(read_i32, int32_t)
READER(read_u64, uint64_t)
READER(read_f64, double)

static const char* read_text(void) {
  const uint32_t bytes = read_u32();
  char* text = take((size_t)bytes + 1);
  read_bytes(text, bytes);
  text[bytes] = '\0';
  return text;
}

static mrt_tensor read_tensor(void) {
  mrt_tensor tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.ndim = read_i32();
  if (tensor.ndim < 0) return tensor;
  tensor.dtype.code = read_u8();
  tensor.dtype.bits = read_u8();
  tensor.dtype.lanes = 1;
  int64_t* shape = take((size_t)tensor.ndim * sizeof *shape);
  read_bytes(shape, (size_t)tensor.ndim * sizeof *shape);
  tensor.shape = shape;
  tensor.bytes = (size_t)read_u64();
  tensor.data = take(tensor.bytes);
  read_bytes(tensor.data, tensor.bytes);
  return tensor;
}

static mrt_tensor* read_tensors(uint32_t* count) {
  *count = read_u32();
  mrt_tensor* tensors = take(*count * sizeof *tensors);
  for (uint32_t i = 0; i < *count; ++i) tensors[i] = read_tensor();
  return tensors;
}

static mrt_attr* read_attrs(uint32_t* count) {
  *count = read_u32();
  mrt_attr* attrs = take(*count * sizeof *attrs);
  memset(attrs, 0, *count * sizeof *attrs);
  for (uint32_t i = 0; i < *count; ++i) {
    attrs[i].key = read_text();
    const uint8_t kind = read_u8();
    attrs[i].n = 1;
    if (kind == 2) {
      attrs[i].str = read_text();
      continue;
    }
    attrs[i].n = read_u32();
    void* numbers = take(attrs[i].n * 8);
    read_bytes(numbers, attrs[i].n * 8);
    if (kind == 1)
      attrs[i].floats = numbers;
    else
      attrs[i].ints = numbers;
  }
  return attrs;
}

/* ---- answering ---- */

static void write_bytes(const void* data, size_t bytes) {
  if (bytes && fwrite(data, 1, bytes, stdout) != bytes) exit(1);
}

static void write_text(const char* text) {
  const uint32_t bytes = (uint32_t)strlen(text);
  write_bytes(&bytes, sizeof bytes);
  write_bytes(text, bytes);
}

/* Whether what the request gives follows. */
static int answer(mrt_status status) {
  write_text(mrt_status_name(status));
  write_text(status == MRT_OK ? "" : mrt_last_error());
  return status == MRT_OK;
}

static size_t dense_bytes(const mrt_tensor* tensor) {
  size_t bytes = tensor->dtype.bits < 8 ? 1 : tensor->dtype.bits / 8;
  for (int32_t d = 0; d < tensor->ndim; ++d) bytes *= (size_t)tensor->shape[d];
  return bytes;
}

static void write_tensor(const mrt_tensor* tensor) {
  const uint64_t bytes = dense_bytes(tensor);
  write_bytes(&tensor->ndim, sizeof tensor->ndim);
  write_bytes(&tensor->dtype.code, 1);
  write_bytes(&tensor->dtype.bits, 1);
  write_bytes(tensor->shape, (size_t)tensor->ndim * sizeof *tensor->shape);
  write_bytes(&bytes, sizeof bytes);
  write_bytes(tensor->data, bytes);
}

/* ---- requests ---- */

static void registry(void) {
  if (answer(MRT_OK)) write_text(mrt_kernels_json());
}

static void pack(void) {
  const char* contract = read_text();
  const char* packing = read_text();
  const mrt_tensor weight = read_tensor();
  uint32_t attr_count;
  const mrt_attr* attrs = read_attrs(&attr_count);
  size_t bytes = 0;
  void* packed = NULL;
  mrt_status status = mrt_kernel_packed_bytes(contract, packing, &weight, attrs, attr_count, &bytes);
  if (status == MRT_OK) {
    packed = take(bytes);
    status = mrt_kernel_pack(contract, packing, &weight, attrs, attr_count, packed, bytes);
  }
  if (!answer(status)) return;
  const int64_t extent = (int64_t)bytes;
  const mrt_tensor result = {packed, {MRT_UINT, 8, 1}, 1, &extent, NULL, bytes};
  write_tensor(&result);
}

static void run(void) {
  const char* contract = read_text();
  const char* isa = read_text();
  const int32_t threads = read_i32();
  uint32_t input_count, output_count, attr_count;
  const mrt_tensor* inputs = read_tensors(&input_count);
  mrt_tensor* outputs = read_tensors(&output_count);
  const mrt_attr* attrs = read_attrs(&attr_count);
  for (uint32_t i = 0; i < output_count; ++i) {
    outputs[i].bytes = outputs[i].ndim < 0 ? 0 : dense_bytes(&outputs[i]);
    outputs[i].data = take(outputs[i].bytes);
    memset(outputs[i].data, 0xaa, outputs[i].bytes); /* what nobody writes is no result */
  }
  if (answer(mrt_kernel_run(contract, isa, inputs, input_count, outputs, output_count, attrs, attr_count, threads)))
    for (uint32_t i = 0; i < output_count; ++i) write_tensor(&outputs[i]);
}

static mrt_program* program;

static void load(void) {
  const char* path = read_text();
  mrt_program_free(program);
  program = NULL;
  answer(mrt_program_load(path, NULL, &program));
}

static int64_t deadline_in(double seconds) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return seconds > 0 ? (int64_t)now.tv_sec * 1000000000 + now.tv_nsec + (int64_t)(seconds * 1e9) : 0;
}

/* Each run begins with the states' initial values. */
static void execute(void) {
  mrt_session_options options = {sizeof options, read_i32(), 0, 0};
  mrt_run_options how;
  memset(&how, 0, sizeof how);
  how.struct_size = sizeof how;
  how.deadline_ns = deadline_in(read_f64());
  how.seeded = read_u8();
  how.seed = read_u64();
  uint32_t input_count;
  const mrt_tensor* inputs = read_tensors(&input_count);
  const uint32_t output_count = program ? (uint32_t)mrt_program_output_count(program, 0) : 0;
  mrt_tensor* outputs = take(output_count * sizeof *outputs);
  memset(outputs, 0, output_count * sizeof *outputs);
  mrt_session* session = NULL;
  mrt_status status = mrt_session_create(program, &options, &session);
  if (status == MRT_OK && mrt_program_state_count(program) > 0) status = mrt_state_create(program, &how.state);
  if (status == MRT_OK) status = mrt_session_run(session, inputs, input_count, outputs, output_count, &how);
  if (answer(status)) {
    write_bytes(&output_count, sizeof output_count);
    for (uint32_t i = 0; i < output_count; ++i) write_tensor(&outputs[i]);
  }
  mrt_state_free(how.state);
  mrt_session_free(session);
}

int main(void) {
  static void (*const kRequests[])(void) = {registry, pack, run, load, execute};
  uint32_t request;
  while (fread(&request, sizeof request, 1, stdin) == 1) {
    if (request < 1 || request > sizeof kRequests / sizeof *kRequests) {
      fprintf(stderr, "maas_rt_remote: there is no request %u\n", (unsigned)request);
      return 1;
    }
    kRequests[request - 1]();
    if (fflush(stdout) != 0) return 1;
    free_blocks();
  }
  mrt_program_free(program);
  return 0;
}
