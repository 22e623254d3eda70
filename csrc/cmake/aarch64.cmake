# A build for AArch64 Linux on another machine, with Debian's cross compiler (apt-get install g++-aarch64-linux-gnu), whose
# tests run under emulation (apt-get install qemu-user-static):
#
#   cmake -S csrc -B build/aarch64 -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake -DMAAS_RT_BUILD_TESTS=ON
#   cmake --build build/aarch64 && ctest --test-dir build/aarch64
#
# MAAS_RT_CPU is the CPU that the tests are run on, one that `qemu-aarch64 -cpu help` names.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(MAAS_RT_CPU max CACHE STRING "CPU that qemu-aarch64 emulates for the tests: cortex-a53, neoverse-n1, max, ...")
# qemu 7.2 with plugins, which Debian's static one is without, ends in an assertion where a program forks.
find_program(MAAS_RT_QEMU NAMES qemu-aarch64-static qemu-aarch64)
set(CMAKE_CROSSCOMPILING_EMULATOR ${MAAS_RT_QEMU} -L /usr/aarch64-linux-gnu -cpu ${MAAS_RT_CPU})
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
