/* A worker of the benchmark protocol in C: times calls of a model with one float32 input through the C API.
 *
 *   call MODEL.mrt INPUT.f32
 *
 * Answers each line of stdin, a number of seconds, with a JSON list of seconds a call on stdout, each the mean of BATCH
 * calls: one call takes about as long as reading the clock.
 */
#define _POSIX_C_SOURCE 200809L
#include <maas_rt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 64, MAX_TIMES = 4096, MAX_INPUT = 1 << 20 };

static float input_data[MAX_INPUT];
static double times[MAX_TIMES];

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int fail(const char* what) {
  printf("{\"error\": \"%s\"}\n", what);
  fprintf(stderr, "call: %s: %s\n", what, mrt_last_error());
  return 1;
}

static int run(mrt_session* session, const mrt_tensor* input) {
  mrt_tensor output;
  memset(&output, 0, sizeof output); /* no data: the session's memory is used */
  return mrt_session_run(session, input, 1, &output, 1, NULL) == MRT_OK;
}

/* Fills `times` for about `seconds`; how many, or -1 where a call failed. */
static int measure(mrt_session* session, const mrt_tensor* input, double seconds) {
  const double end = now() + seconds;
  int count = 0;
  while (count < MAX_TIMES && (count < 3 || now() < end)) {
    const double start = now();
    for (int i = 0; i < BATCH; ++i) {
      if (!run(session, input)) return -1;
    }
    times[count++] = (now() - start) / BATCH;
  }
  return count;
}

int main(int argc, char** argv) {
  if (argc != 3) return fail("usage: call MODEL.mrt INPUT.f32");
  mrt_session_options options = {sizeof options, 1, 0, 0};
  mrt_program* program = NULL;
  mrt_session* session = NULL;
  if (mrt_program_load(argv[1], NULL, &program) != MRT_OK) return fail("cannot load the model");
  if (mrt_session_create(program, &options, &session) != MRT_OK) return fail("cannot create a session");

  mrt_value_info info;
  if (mrt_program_input_count(program, 0) != 1 || mrt_program_output_count(program, 0) != 1 ||
      mrt_program_input_info(program, 0, 0, &info) != MRT_OK || info.dtype.code != MRT_FLOAT || info.dtype.bits != 32)
    return fail("the model must have one float32 input and one output");
  int64_t shape[MRT_MAX_RANK], count = 1;
  for (int32_t d = 0; d < info.ndim; ++d) count *= shape[d] = info.dims[d].extent;
  FILE* file = fopen(argv[2], "rb");
  if (!file || count < 1 || count > MAX_INPUT || fread(input_data, sizeof(float), (size_t)count, file) != (size_t)count)
    return fail("the input does not hold one item of the model");
  fclose(file);

  const mrt_tensor input = {input_data, {MRT_FLOAT, 32, 1}, info.ndim, shape, NULL, 0};
  if (!run(session, &input)) return fail("the model does not run");
  printf("{}\n");
  fflush(stdout);
  char line[64];
  while (fgets(line, sizeof line, stdin)) {
    const int got = measure(session, &input, atof(line));
    if (got < 0) return fail("a call failed");
    for (int i = 0; i < got; ++i) printf("%s%.9g", i ? ", " : "[", times[i]);
    printf("]\n");
    fflush(stdout);
  }
  mrt_session_free(session);
  mrt_program_free(program);
  return 0;
}
