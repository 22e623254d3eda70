# A build for RISC-V (RV64GC) Linux on another machine, with Debian's cross compiler (apt-get install g++-riscv64-linux-gnu), whose tests
# run under emulation (apt-get install qemu-user-static). Portable kernels; no generated code: no target has its name.
#
#   cmake -S csrc -B build/riscv64 -DCMAKE_TOOLCHAIN_FILE=cmake/riscv64.cmake -DMAAS_RT_BUILD_TESTS=ON
#   cmake --build build/riscv64 && ctest --test-dir build/riscv64
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR riscv64)
set(CMAKE_C_COMPILER riscv64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER riscv64-linux-gnu-g++)
set(CMAKE_CXX_STANDARD_LIBRARIES -latomic)  # exchanges of bytes are calls there
find_program(MAAS_RT_QEMU NAMES qemu-riscv64-static qemu-riscv64)
set(CMAKE_CROSSCOMPILING_EMULATOR ${MAAS_RT_QEMU} -L /usr/riscv64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH /usr/riscv64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
