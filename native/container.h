#pragma once

#include "fd.h"

namespace vfio {

/** An open /dev/vfio/vfio: an IOMMU context that groups join. */
class Container : public FdObject<Container> {
 public:
  static constexpr const char* kName = "Container";
  static constexpr napi_type_tag kTag = {0x8f0f4c5a1d2b4e07, 0x9a61c3b0f7d2e401};
  static Napi::FunctionReference& Class(Addon& addon) { return addon.container; }
  static Napi::FunctionReference Define(Napi::Env env);
  using FdObject::FdObject;

 private:
  template <Napi::Value (*call)(const Napi::CallbackInfo&, const SharedFd&)>
  Napi::Value With(const Napi::CallbackInfo& info) {
    return call(info, fd());
  }
  static Napi::Value Open(const Napi::CallbackInfo& info);
  Napi::Value ApiVersion(const Napi::CallbackInfo& info);
  Napi::Value CheckExtension(const Napi::CallbackInfo& info);
  Napi::Value SetIommu(const Napi::CallbackInfo& info);
  Napi::Value IommuInfo(const Napi::CallbackInfo& info);
};

}  // namespace vfio
