#pragma once

#include "fd.h"

namespace vfio {

/** A dma-buf: ranges of a device's BAR as a file, which other devices may do DMA to. */
class DmaBuf : public FdObject<DmaBuf> {
 public:
  static constexpr const char* kName = "DmaBuf";
  static constexpr napi_type_tag kTag = {0x1e94b07d35c8462f, 0xbc60d7a21f8e4593};
  static Napi::FunctionReference& Class(Addon& addon) { return addon.dma_buf; }
  static Napi::FunctionReference Define(Napi::Env env) {
    return DefineFdClass(env, {});
  }
  using FdObject::FdObject;
};

}  // namespace vfio
