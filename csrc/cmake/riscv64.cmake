# A build for RISC-V (RV64GC) Linux on another machine, with Debian's cross compiler (apt-get install g++-riscv64-linux-gnu), whose tests
# run under emulation (apt-get install qemu-user-static). Portable kernels; no generated code: no target has its name.
#
#   cmake -S csrc -B build/riscv64 -DCMAKE_TOOLCHAIN_FILE=cmake/riscv64.cmake -DMAAS_RT_BUILD_TESTS=ON
#   cmake --build build/riscv64 && ctest --test-dir build/riscv64
set(CMAKE_SYSTEM_PROCESSOR riscv64)
set(MAAS_RT_TRIPLE riscv64-linux-gnu)
set(MAAS_RT_EMULATED riscv64)
set(CMAKE_CXX_STANDARD_LIBRARIES -latomic)  # exchanges of bytes are calls there
include(${CMAKE_CURRENT_LIST_DIR}/cross.cmake)
