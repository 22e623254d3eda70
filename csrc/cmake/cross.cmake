# What the toolchain files of Debian's cross compilers share. They set CMAKE_SYSTEM_PROCESSOR, MAAS_RT_TRIPLE (the compilers' prefix) and
# MAAS_RT_EMULATED (qemu-user's name of the machine), and may add to the emulator's arguments, MAAS_RT_QEMU_ARGUMENTS.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_C_COMPILER ${MAAS_RT_TRIPLE}-gcc)
set(CMAKE_CXX_COMPILER ${MAAS_RT_TRIPLE}-g++)
# qemu 7.2 with plugins, which Debian's static one is without, ends in an assertion where a program forks.
find_program(MAAS_RT_QEMU NAMES qemu-${MAAS_RT_EMULATED}-static qemu-${MAAS_RT_EMULATED})
set(CMAKE_CROSSCOMPILING_EMULATOR ${MAAS_RT_QEMU} -L /usr/${MAAS_RT_TRIPLE} ${MAAS_RT_QEMU_ARGUMENTS})
set(CMAKE_FIND_ROOT_PATH /usr/${MAAS_RT_TRIPLE})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
