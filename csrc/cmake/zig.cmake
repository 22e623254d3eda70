# Builds with zig (pip install ziglang), which brings compiler, C library and C++ library for many targets; it makes the
# latter two the first time, which takes minutes. With musl for programs that need nothing of the system, with an old
# version of glibc for libraries that run on many systems. The C++ library is linked in.
#
#   cmake -S csrc -B build/musl -DCMAKE_TOOLCHAIN_FILE=cmake/zig.cmake -DBUILD_SHARED_LIBS=OFF -DMAAS_RT_BUILD_EXAMPLES=ON
#
# MAAS_RT_TARGET is x86_64-linux-musl, aarch64-linux-musl, x86_64-linux-gnu.2.28, aarch64-linux-gnu.2.28, ... Where python3
# does not find ziglang, name a zig in MAAS_RT_ZIG.
set(MAAS_RT_TARGET x86_64-linux-musl CACHE STRING "What zig builds for: CPU, system, C library and its version")
if(NOT MAAS_RT_ZIG)
  find_program(MAAS_RT_ZIG zig)
endif()
if(NOT MAAS_RT_ZIG)
  execute_process(COMMAND python3 -c "import os, ziglang; print(os.path.join(os.path.dirname(ziglang.__file__), 'zig'))"
    OUTPUT_VARIABLE _zig OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT _zig)
    message(FATAL_ERROR "There is no zig: pip install ziglang, or name one in MAAS_RT_ZIG.")
  endif()
  set(MAAS_RT_ZIG ${_zig} CACHE FILEPATH "The zig that compiles" FORCE)
endif()
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES MAAS_RT_TARGET MAAS_RT_ZIG)

string(REGEX REPLACE "-.*" "" _cpu ${MAAS_RT_TARGET})
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${_cpu})
set(CMAKE_C_COMPILER ${MAAS_RT_ZIG} cc -target ${MAAS_RT_TARGET})
set(CMAKE_CXX_COMPILER ${MAAS_RT_ZIG} c++ -target ${MAAS_RT_TARGET})
# CMake wants one file for an archiver.
foreach(_tool ar ranlib)
  string(TOUPPER ${_tool} _variable)
  file(WRITE ${CMAKE_BINARY_DIR}/zig-${_tool} "#!/bin/sh\nexec '${MAAS_RT_ZIG}' ${_tool} \"$@\"\n")
  file(CHMOD ${CMAKE_BINARY_DIR}/zig-${_tool} PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
  set(CMAKE_${_variable} ${CMAKE_BINARY_DIR}/zig-${_tool} CACHE FILEPATH "" FORCE)
endforeach()
# Of its objcopy zig has only a part.
find_program(CMAKE_OBJCOPY NAMES llvm-objcopy ${_cpu}-linux-gnu-objcopy)
set(MAAS_RT_RELOCATABLE ${MAAS_RT_ZIG} ld.lld -r --force-group-allocation)
set(MAAS_RT_CXX_LIBRARIES c++)
