/* Classify with a compiled model from C, no Python on the way.
 *
 *   classify MODEL.mrt INPUT.f32 [--threads N] [--top K] [--bench]
 *
 * INPUT.f32 holds raw float32 values: one item or several of the model's only input. Dynamic dimensions other than the
 * first take their smallest extent. Prints, for each item, the K best classes of the first output; with --bench also
 * the time to load and the median time of one item.
 */
#define _POSIX_C_SOURCE 200809L
#include <maas_rt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int fail(const char* what) {
  const char* why = mrt_last_error();
  fprintf(stderr, "classify: %s%s%s\n", what, *why ? ": " : "", why);
  return 1;
}

static float* read_floats(const char* path, size_t* count) {
  FILE* file = fopen(path, "rb");
  if (!file) return NULL;
  float* data = NULL;
  long bytes = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
  if (bytes > 0 && bytes % (long)sizeof(float) == 0 && fseek(file, 0, SEEK_SET) == 0 &&
      (data = malloc((size_t)bytes)) != NULL) {
    *count = (size_t)bytes / sizeof(float);
    if (fread(data, sizeof(float), *count, file) != *count) {
      free(data);
      data = NULL;
    }
  }
  fclose(file);
  return data;
}

/* The K largest scores, best first; K is small, so a pass for each is enough. */
static void print_best(size_t item, const float* scores, int64_t classes, int top) {
  printf("item %zu:", item);
  float bound = 0;
  int64_t last = -1;
  for (int k = 0; k < top && k < classes; ++k) {
    int64_t best = -1;
    for (int64_t c = 0; c < classes; ++c) {
      const int after = last < 0 || scores[c] < bound || (scores[c] == bound && c > last);
      if (after && (best < 0 || scores[c] > scores[best])) best = c;
    }
    if (best < 0) break;
    printf("%s class %lld (%.4f)", k ? "," : "", (long long)best, (double)scores[best]);
    bound = scores[best];
    last = best;
  }
  printf("\n");
}

static int compare_times(const void* a, const void* b) {
  const int64_t x = *(const int64_t*)a, y = *(const int64_t*)b;
  return (x > y) - (x < y);
}

static int run_item(mrt_session* session, float* item, const int64_t* shape, int32_t ndim, mrt_tensor* outputs,
                    size_t output_count) {
  mrt_tensor input = {item, {MRT_FLOAT, 32, 1}, ndim, shape, NULL, 0};
  memset(outputs, 0, output_count * sizeof *outputs); /* no data: the session's memory is used */
  return mrt_session_run(session, &input, 1, outputs, output_count, NULL) == MRT_OK;
}

int main(int argc, char** argv) {
  mrt_session_options options = {sizeof options, 0, 0, 0};
  int top = 5, bench = 0;
  if (argc < 3) {
    fprintf(stderr, "usage: classify MODEL.mrt INPUT.f32 [--threads N] [--top K] [--bench]\n");
    return 2;
  }
  for (int i = 3; i < argc; ++i) {
    if (!strcmp(argv[i], "--threads") && i + 1 < argc)
      options.threads = atoi(argv[++i]);
    else if (!strcmp(argv[i], "--top") && i + 1 < argc)
      top = atoi(argv[++i]);
    else if (!strcmp(argv[i], "--bench"))
      bench = 1;
    else {
      fprintf(stderr, "classify: unknown argument %s\n", argv[i]);
      return 2;
    }
  }

  const int64_t start = now_ns();
  mrt_program* program = NULL;
  mrt_session* session = NULL;
  if (mrt_program_load(argv[1], NULL, &program) != MRT_OK) return fail("cannot load the model");
  if (mrt_session_create(program, &options, &session) != MRT_OK) return fail("cannot create a session");
  const int64_t loaded = now_ns();

  mrt_value_info info;
  if (mrt_program_input_count(program, 0) != 1 || mrt_program_input_info(program, 0, 0, &info) != MRT_OK ||
      info.dtype.code != MRT_FLOAT || info.dtype.bits != 32 || info.ndim < 1 || info.ndim > MRT_MAX_RANK)
    return fail("the model must have one float32 input of rank 1 or more");
  int64_t shape[MRT_MAX_RANK];
  size_t per_item = 1;
  for (int32_t d = 0; d < info.ndim; ++d) {
    shape[d] = info.dims[d].extent >= 0 ? info.dims[d].extent : info.dims[d].min > 0 ? info.dims[d].min : 1;
    per_item *= (size_t)shape[d];
  }
  size_t count = 0;
  float* data = read_floats(argv[2], &count);
  if (!data || per_item == 0 || count % per_item != 0) {
    fprintf(stderr, "classify: %s does not hold a whole number of items of %zu float32 values\n", argv[2], per_item);
    return 1;
  }

  const int32_t output_count = mrt_program_output_count(program, 0);
  mrt_tensor* outputs = calloc((size_t)output_count, sizeof *outputs);
  if (!outputs) return fail("out of memory");
  for (size_t item = 0; item < count / per_item; ++item) {
    if (!run_item(session, data + item * per_item, shape, info.ndim, outputs, (size_t)output_count)) return fail("run");
    const mrt_tensor* y = &outputs[0];
    if (y->dtype.code != MRT_FLOAT || y->dtype.bits != 32 || y->ndim < 1)
      return fail("the first output is not float32");
    int64_t classes = 1;
    for (int32_t d = 0; d < y->ndim; ++d) classes *= y->shape[d];
    print_best(item, y->data, classes, top);
  }
  if (bench) {
    enum { kRuns = 2000 };
    static int64_t times[kRuns];
    int runs = 0;
    for (const int64_t end = now_ns() + 1000000000; runs < kRuns && now_ns() < end; ++runs) {
      const int64_t t0 = now_ns();
      if (!run_item(session, data, shape, info.ndim, outputs, (size_t)output_count)) return fail("run");
      times[runs] = now_ns() - t0;
    }
    qsort(times, (size_t)runs, sizeof times[0], compare_times);
    printf("load_ms: %.3f\np50_us: %.3f\n", 1e-6 * (double)(loaded - start), 1e-3 * (double)times[runs / 2]);
  }
  free(outputs);
  free(data);
  mrt_session_free(session);
  mrt_program_free(program);
  return 0;
}
