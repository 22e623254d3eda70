# A build for ARMv7 (hard float) Linux on another machine, with Debian's cross compiler (apt-get install g++-arm-linux-gnueabihf), whose tests
# run under emulation (apt-get install qemu-user-static). Portable kernels; no generated code: no target has its name.
#
#   cmake -S csrc -B build/armv7 -DCMAKE_TOOLCHAIN_FILE=cmake/armv7.cmake -DMAAS_RT_BUILD_TESTS=ON
#   cmake --build build/armv7 && ctest --test-dir build/armv7
set(CMAKE_SYSTEM_PROCESSOR armv7)
set(MAAS_RT_TRIPLE arm-linux-gnueabihf)
set(MAAS_RT_EMULATED arm)
set(CMAKE_CXX_FLAGS_INIT -Wno-psabi)  # of how GCC 7 changed the passing of some arguments
include(${CMAKE_CURRENT_LIST_DIR}/cross.cmake)
