// Random numbers one block after the other.
#include "kernels/random/philox.h"

namespace mrt {

void random_reference(RandomKind kind, const RandomStream& s, uint64_t block, void* out) {
  const uint32_t low = static_cast<uint32_t>(block), high = static_cast<uint32_t>(block >> 32);
  const Words words = philox(low, high, s.draw, s.number, s.key[0], s.key[1]);
  const uint32_t* w = words.w;
  float* f = static_cast<float*>(out);
  double* d = static_cast<double*>(out);
  switch (kind) {
    case RandomKind::uniform_f32:
      for (int j = 0; j < 4; ++j) f[j] = uniform(w[j]);
      return;
    case RandomKind::uniform_f64:
      for (int j = 0; j < 2; ++j) d[j] = upper53(w[2 * j], w[2 * j + 1]) * 0x1p-53;
      return;
    case RandomKind::normal_f32:
      for (int j = 0; j < 4; j += 2) normal_f32(w[j], w[j + 1], f + j, f + j + 1);
      return;
    case RandomKind::normal_f64:
      return normal_f64(w, d, d + 1);
    case RandomKind::bits_u64:
      __builtin_memcpy(out, w, 16);
  }
}

}  // namespace mrt
