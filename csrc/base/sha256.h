// SHA-256 (FIPS 180-4), with the CPU's instructions where it has them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mrt {

void sha256(const void* data, size_t bytes, uint8_t out[32]);

// Of several pieces in order.
class Sha256 {
 public:
  Sha256();
  void update(const void* data, size_t bytes);
  void finish(uint8_t out[32]);

 private:
  uint32_t state_[8];
  uint8_t block_[64];
  size_t filled_ = 0;
  uint64_t total_ = 0;
};

// One implementation: folds `blocks` blocks of 64 bytes into the state.
using Sha256Fold = void (*)(uint32_t state[8], const uint8_t* data, size_t blocks);
void sha256_fold_portable(uint32_t state[8], const uint8_t* data, size_t blocks);
extern const Sha256Fold kSha256FoldShani;

}  // namespace mrt
