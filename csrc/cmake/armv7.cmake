# A build for ARMv7 (hard float) Linux on another machine, with Debian's cross compiler (apt-get install g++-arm-linux-gnueabihf), whose tests
# run under emulation (apt-get install qemu-user-static). Portable kernels; no generated code: no target has its name.
#
#   cmake -S csrc -B build/armv7 -DCMAKE_TOOLCHAIN_FILE=cmake/armv7.cmake -DMAAS_RT_BUILD_TESTS=ON
#   cmake --build build/armv7 && ctest --test-dir build/armv7
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR armv7)
set(CMAKE_C_COMPILER arm-linux-gnueabihf-gcc)
set(CMAKE_CXX_COMPILER arm-linux-gnueabihf-g++)
set(CMAKE_CXX_FLAGS_INIT -Wno-psabi)  # of how GCC 7 changed the passing of some arguments
find_program(MAAS_RT_QEMU NAMES qemu-arm-static qemu-arm)
set(CMAKE_CROSSCOMPILING_EMULATOR ${MAAS_RT_QEMU} -L /usr/arm-linux-gnueabihf)
set(CMAKE_FIND_ROOT_PATH /usr/arm-linux-gnueabihf)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
