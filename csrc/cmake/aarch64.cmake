# A build for AArch64 Linux on another machine, with Debian's cross compiler (apt-get install g++-aarch64-linux-gnu), whose
# tests run under emulation (apt-get install qemu-user-static):
#
#   cmake -S csrc -B build/aarch64 -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake -DMAAS_RT_BUILD_TESTS=ON
#   cmake --build build/aarch64 && ctest --test-dir build/aarch64
#
# MAAS_RT_CPU is the CPU that the tests are run on, one that `qemu-aarch64 -cpu help` names.
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(MAAS_RT_TRIPLE aarch64-linux-gnu)
set(MAAS_RT_EMULATED aarch64)
set(MAAS_RT_CPU max CACHE STRING "CPU that qemu-aarch64 emulates for the tests: cortex-a53, neoverse-n1, max, ...")
set(MAAS_RT_QEMU_ARGUMENTS -cpu ${MAAS_RT_CPU})
include(${CMAKE_CURRENT_LIST_DIR}/cross.cmake)
