// mrt_plan_echo IN OUT: decodes a plan section and writes it again. Exit code 1 and a sentence if it cannot be decoded.
#include <cstdio>
#include <vector>

#include "artifact/plan.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: mrt_plan_echo IN OUT\n");
    return 2;
  }
  std::FILE* in = std::fopen(argv[1], "rb");
  if (!in) {
    std::perror(argv[1]);
    return 2;
  }
  std::vector<uint8_t> bytes;
  for (int c = 0; (c = std::fgetc(in)) != EOF;) bytes.push_back(static_cast<uint8_t>(c));
  std::fclose(in);
  mrt::plan::Plan plan;
  const mrt::Status status = mrt::plan::decode(bytes.data(), bytes.size(), &plan);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return 1;
  }
  bytes = mrt::plan::encode(plan);
  std::FILE* out = std::fopen(argv[2], "wb");
  if (!out) {
    std::perror(argv[2]);
    return 2;
  }
  const bool ok = std::fwrite(bytes.data(), 1, bytes.size(), out) == bytes.size();
  return std::fclose(out) == 0 && ok ? 0 : 2;
}
