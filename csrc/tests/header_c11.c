/* maas_rt.h as C11: compiles without a warning, and the calls that need no model answer. */
#include <maas_rt.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  mrt_program* program = NULL;
  if (strcmp(mrt_version(), "0.1.0") != 0 || mrt_cpu_count() < 1) return 1;
  if (mrt_program_load("/nonexistent.mrt", NULL, &program) != MRT_ERROR_IO || program != NULL) return 2;
  if (strstr(mrt_last_error(), "/nonexistent.mrt") == NULL) return 3;
  if (strcmp(mrt_status_name(MRT_ERROR_IO), "MRT_ERROR_IO") != 0) return 4;
  printf("%s, %s, %d CPUs\n", mrt_cpu_isa(), mrt_cpu_level(), (int)mrt_cpu_count());
  return 0;
}
