# libmaas_rt.so: shows mrt_* alone.
add_library(maas_rt SHARED $<TARGET_OBJECTS:maas_rt_objects>)
add_library(maas_rt::maas_rt ALIAS maas_rt)
target_include_directories(maas_rt PUBLIC
  $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(maas_rt PRIVATE Threads::Threads ${CMAKE_DL_LIBS} m)
if(MAAS_RT_BUNDLE_CXX)
  target_link_options(maas_rt PRIVATE -static-libstdc++ -static-libgcc)
endif()
if(UNIX AND NOT APPLE)
  # nodelete: worker threads outlive a dlclose. No build-id and no soname version: the wheel holds one plain file.
  target_link_options(maas_rt PRIVATE ${_sanitize_flags} -Wl,--gc-sections -Wl,--build-id=none -Wl,-z,nodelete
    -Wl,-z,relro -Wl,-z,now -Wl,-O1 -Wl,--hash-style=gnu
    -Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/capi/exports.map)
  set_property(TARGET maas_rt APPEND PROPERTY LINK_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/capi/exports.map)
  if(NOT MAAS_RT_SANITIZE)
    target_link_options(maas_rt PRIVATE -Wl,-z,defs $<$<CONFIG:Release>:-s>)
  endif()
endif()
install(TARGETS maas_rt EXPORT maas_rt_targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT development)
