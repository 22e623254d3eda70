// The structures of the DLPack protocol (its stable C ABI, versions 0 and 1), as far as the CPU needs them.
#pragma once

#include <cstdint>

namespace maas_rt_python {

struct DlDevice {
  int32_t type;  // 1: CPU, 3: CUDA host memory
  int32_t id;
};
struct DlTensor {
  void* data;
  DlDevice device;
  int32_t ndim;
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;  // in elements; may be null
  uint64_t byte_offset;
};
struct DlManagedTensor {
  DlTensor tensor;
  void* manager;
  void (*deleter)(DlManagedTensor*);
};
struct DlManagedTensorVersioned {
  uint32_t major;
  uint32_t minor;
  void* manager;
  void (*deleter)(DlManagedTensorVersioned*);
  uint64_t flags;  // bit 0: read-only; bit 2: elements of fewer than 8 bits take a byte each
  DlTensor tensor;
};

}  // namespace maas_rt_python
