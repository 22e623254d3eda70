// What this core can do at most: a loop of independent fused multiply-adds, and a read of memory.
#include <immintrin.h>
#include <stddef.h>
#include <time.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// GFLOP/s of `iterations` rounds of 12 independent 8-wide FMAs. The sums are variables, not an array: an array is kept
// in memory, and the loop then measures stores (half of the rate on Zen 3).
double fma_gflops(long iterations) {
  __m256 s0 = _mm256_set1_ps(0.0f), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0;
  __m256 s6 = s0, s7 = s0, s8 = s0, s9 = s0, s10 = s0, s11 = s0;
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
  const double start = now();
  for (long n = 0; n < iterations; ++n) {
#define MULTIPLY_ADD(s) __asm__ volatile("vfmadd213ps %2, %1, %0" : "+x"(s) : "x"(a), "x"(b))
    MULTIPLY_ADD(s0);
    MULTIPLY_ADD(s1);
    MULTIPLY_ADD(s2);
    MULTIPLY_ADD(s3);
    MULTIPLY_ADD(s4);
    MULTIPLY_ADD(s5);
    MULTIPLY_ADD(s6);
    MULTIPLY_ADD(s7);
    MULTIPLY_ADD(s8);
    MULTIPLY_ADD(s9);
    MULTIPLY_ADD(s10);
    MULTIPLY_ADD(s11);
#undef MULTIPLY_ADD
  }
  const double seconds = now() - start;
  volatile float sink = _mm256_cvtss_f32(_mm256_add_ps(_mm256_add_ps(s0, s5), s11));
  (void)sink;
  return (double)iterations * 12 * 16 / seconds * 1e-9;
}

// Reads `bytes` (a multiple of 128) at `data` once; the result only keeps that from being left out.
float read_once(const float* data, size_t bytes) {
  __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
  for (size_t i = 0; i < bytes / sizeof(float); i += 32) {
    s0 = _mm256_add_ps(s0, _mm256_loadu_ps(data + i));
    s1 = _mm256_add_ps(s1, _mm256_loadu_ps(data + i + 8));
    s2 = _mm256_add_ps(s2, _mm256_loadu_ps(data + i + 16));
    s3 = _mm256_add_ps(s3, _mm256_loadu_ps(data + i + 24));
  }
  return _mm256_cvtss_f32(_mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3)));
}

// GB/s of reading `bytes` (a multiple of 128) at `data`, `passes` times after one that is not timed.
double read_gbps(const float* data, size_t bytes, int passes) {
  __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
  double start = now();
  for (int pass = 0; pass <= passes; ++pass) {
    if (pass == 1) start = now();
    for (size_t i = 0; i < bytes / sizeof(float); i += 32) {
      s0 = _mm256_add_ps(s0, _mm256_loadu_ps(data + i));
      s1 = _mm256_add_ps(s1, _mm256_loadu_ps(data + i + 8));
      s2 = _mm256_add_ps(s2, _mm256_loadu_ps(data + i + 16));
      s3 = _mm256_add_ps(s3, _mm256_loadu_ps(data + i + 24));
    }
    __asm__ volatile("" : "+x"(s0), "+x"(s1), "+x"(s2), "+x"(s3) : : "memory");
  }
  const double seconds = now() - start;
  volatile float sink = _mm256_cvtss_f32(_mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3)));
  (void)sink;
  return (double)bytes * passes / seconds * 1e-9;
}
