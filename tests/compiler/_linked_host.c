/* A program that generated functions of two models are linked into: linked_host MODEL.mrt TABLES INPUT.f32
 *
 * TABLES says what it gives the load: "both", "first", "second", "newer" (a version that does not exist), "null" or
 * "none". Prints the first output's values, or the status and its sentence. */
#include <maas_rt.h>
#include <stdio.h>
#include <string.h>

#include "first.h"
#include "second.h"

static int refused(mrt_status status) {
  printf("%s: %s\n", mrt_status_name(status), mrt_last_error());
  return 1;
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  mrt_code_table newer = FIRST;
  newer.version = 2;
  const mrt_code_table* tables[2] = {&FIRST, &SECOND};
  mrt_load_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.code = MRT_CODE_REFUSE; /* of code in files */
  options.code_tables = tables;
  options.code_table_count = 1;
  if (!strcmp(argv[2], "both")) options.code_table_count = 2;
  if (!strcmp(argv[2], "second")) options.code_tables = tables + 1;
  if (!strcmp(argv[2], "newer")) tables[0] = &newer;
  if (!strcmp(argv[2], "null")) tables[0] = NULL;
  if (!strcmp(argv[2], "none")) options.code_table_count = 0;

  float x[32];
  FILE* file = fopen(argv[3], "rb");
  if (!file || fread(x, sizeof *x, 32, file) != 32) return 2;
  fclose(file);
  mrt_program* program = NULL;
  mrt_session* session = NULL;
  mrt_status status = mrt_program_load(argv[1], &options, &program);
  if (status == MRT_OK) status = mrt_session_create(program, NULL, &session);
  if (status != MRT_OK) return refused(status);
  const int64_t shape[] = {2, 16};
  mrt_tensor input = {x, {MRT_FLOAT, 32, 1}, 2, shape, NULL, 0}, output;
  memset(&output, 0, sizeof output);
  status = mrt_session_run(session, &input, 1, &output, 1, NULL);
  if (status != MRT_OK) return refused(status);
  for (int i = 0; i < 16; ++i) printf("%.9g\n", (double)((const float*)output.data)[i]);
  mrt_session_free(session);
  mrt_program_free(program);
  return 0;
}
