/* A program that is whole: the model lies inside, and its generated functions are linked.
 *
 *   maas-rt compile model.onnx -o model.mrt --code object
 *   cc -static -DMODEL='"model.mrt"' -DHEADER='"model.h"' -DTABLE=mrt_code_model_x86_64_v3 -o embedded embedded.c \
 *      model.x86-64-v3.o $(pkg-config --static --cflags --libs maas_rt)
 *   ./embedded < INPUT.f32
 *
 * Without HEADER and TABLE for a model of kernels alone. Reads raw float32 values, one run of the model's only input
 * (dynamic dimensions take their smallest extent), and prints the first output's.
 */
#include <maas_rt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef HEADER
#include HEADER
#endif

/* The file as it is, where C23 would have #embed. */
__asm__(
    ".section .rodata\n"
    ".balign 64\n"
    "model_begin: .incbin \"" MODEL
    "\"\n"
    "model_end:\n"
    ".previous\n");
extern const unsigned char model_begin[], model_end[];

static int fail(const char* what) {
  fprintf(stderr, "embedded: %s: %s\n", what, mrt_last_error());
  return 1;
}

int main(void) {
  mrt_load_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
#ifdef TABLE
  static const mrt_code_table* const tables[] = {&TABLE};
  options.code_tables = tables;
  options.code_table_count = 1;
#endif
  mrt_program* program = NULL;
  mrt_session* session = NULL;
  const size_t bytes = (size_t)(model_end - model_begin);
  if (mrt_program_load_memory(model_begin, bytes, &options, NULL, NULL, &program) != MRT_OK) return fail("load");
  if (mrt_session_create(program, NULL, &session) != MRT_OK) return fail("session");

  mrt_value_info info;
  if (mrt_program_input_count(program, 0) != 1 || mrt_program_output_count(program, 0) != 1 ||
      mrt_program_input_info(program, 0, 0, &info) != MRT_OK || info.ndim > MRT_MAX_RANK)
    return fail("a model with one input and one output is expected");
  int64_t shape[MRT_MAX_RANK];
  size_t count = 1;
  for (int32_t d = 0; d < info.ndim; ++d) {
    shape[d] = info.dims[d].extent >= 0 ? info.dims[d].extent : info.dims[d].min > 0 ? info.dims[d].min : 1;
    count *= (size_t)shape[d];
  }
  float* data = malloc(count * sizeof *data);
  if (!data || fread(data, sizeof *data, count, stdin) != count) {
    fprintf(stderr, "embedded: expected %zu float32 values on the standard input\n", count);
    return 1;
  }
  mrt_tensor input = {data, {MRT_FLOAT, 32, 1}, info.ndim, shape, NULL, 0}, output;
  memset(&output, 0, sizeof output);
  if (mrt_session_run(session, &input, 1, &output, 1, NULL) != MRT_OK) return fail("run");
  size_t values = 1;
  for (int32_t d = 0; d < output.ndim; ++d) values *= (size_t)output.shape[d];
  for (size_t i = 0; i < values; ++i) printf("%.9g\n", (double)((const float*)output.data)[i]);
  free(data);
  mrt_session_free(session);
  mrt_program_free(program);
  return 0;
}
