# libmaas_rt.a: one object file in which every symbol but mrt_* is local, so that nothing of it meets a symbol of the host.
#
# All objects are linked into one (ld -r), with MAAS_RT_BUNDLE_CXX what they use of the C++ library too; objcopy then makes
# local what is not the C API: first weak, since it leaves unique symbols of C++ alone. A tool chain whose linker or objcopy
# has other names says so in MAAS_RT_RELOCATABLE (a command, up to -o) and CMAKE_OBJCOPY.
if(NOT CMAKE_OBJCOPY)
  message(FATAL_ERROR "The static library needs objcopy, to hide all symbols but mrt_*: install binutils or llvm, or set CMAKE_OBJCOPY.")
endif()
if(NOT MAAS_RT_RELOCATABLE)
  set(MAAS_RT_RELOCATABLE ${CMAKE_CXX_COMPILER} -r -nostdlib)
  include(CheckLinkerFlag)
  check_linker_flag(CXX "-r;-nostdlib;-Wl,--force-group-allocation" MAAS_RT_HAS_GROUP_ALLOCATION)
  if(MAAS_RT_HAS_GROUP_ALLOCATION)
    list(APPEND MAAS_RT_RELOCATABLE -Wl,--force-group-allocation)
  endif()
endif()
set(_cxx_archives)
if(MAAS_RT_BUNDLE_CXX)
  foreach(_name libstdc++.a libgcc_eh.a)
    execute_process(COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=${_name} OUTPUT_VARIABLE _path
      OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
    if(NOT IS_ABSOLUTE "${_path}")
      message(FATAL_ERROR "MAAS_RT_BUNDLE_CXX needs ${_name}, which ${CMAKE_CXX_COMPILER} does not have.")
    endif()
    list(APPEND _cxx_archives ${_path})
  endforeach()
endif()
# Not what is undefined: a linker would not look for it in archives.
set(_unique --weaken-symbol=_ZZ* --weaken-symbol=_ZGV* --weaken-symbol=_Z*N3mrt*)
if(MAAS_RT_BUNDLE_CXX)  # all of C++ is defined
  set(_unique --weaken-symbol=_Z*)
endif()
set(_whole ${CMAKE_CURRENT_BINARY_DIR}/maas_rt_whole.o)
add_custom_command(OUTPUT ${_whole}
  COMMAND ${MAAS_RT_RELOCATABLE} -o ${_whole}.all $<TARGET_OBJECTS:maas_rt_objects> ${_cxx_archives}
  COMMAND ${CMAKE_OBJCOPY} --wildcard ${_unique} ${_whole}.all
  COMMAND ${CMAKE_OBJCOPY} --wildcard $<$<CONFIG:Release>:--strip-debug> --keep-global-symbol=mrt_* ${_whole}.all ${_whole}
  COMMAND ${CMAKE_COMMAND} -E rm ${_whole}.all
  DEPENDS maas_rt_objects $<TARGET_OBJECTS:maas_rt_objects>
  COMMENT "Linking maas_rt_whole.o" COMMAND_EXPAND_LISTS VERBATIM)
set_source_files_properties(${_whole} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)

# What a program in C has to be linked with beside it.
set(MAAS_RT_PRIVATE_LIBRARIES)
if(NOT MAAS_RT_BUNDLE_CXX)
  foreach(_library IN LISTS CMAKE_CXX_IMPLICIT_LINK_LIBRARIES MAAS_RT_CXX_LIBRARIES)
    if(_library MATCHES "^(stdc\\+\\+|c\\+\\+|c\\+\\+abi)$" AND NOT "-l${_library}" IN_LIST MAAS_RT_PRIVATE_LIBRARIES)
      list(APPEND MAAS_RT_PRIVATE_LIBRARIES -l${_library})
    endif()
  endforeach()
endif()
list(APPEND MAAS_RT_PRIVATE_LIBRARIES -lm -pthread)
foreach(_library IN LISTS CMAKE_DL_LIBS)
  list(APPEND MAAS_RT_PRIVATE_LIBRARIES -l${_library})
endforeach()

add_library(maas_rt_static STATIC ${_whole})
add_library(maas_rt::maas_rt_static ALIAS maas_rt_static)
set_target_properties(maas_rt_static PROPERTIES OUTPUT_NAME maas_rt LINKER_LANGUAGE C)
target_include_directories(maas_rt_static INTERFACE
  $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(maas_rt_static INTERFACE ${MAAS_RT_PRIVATE_LIBRARIES})
install(TARGETS maas_rt_static EXPORT maas_rt_targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
