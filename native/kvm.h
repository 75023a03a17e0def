#pragma once

#include "fd.h"

namespace vfio {

/** The device of a KVM machine that is told of VFIO's files. */
class KvmVfio : public FdObject<KvmVfio> {
 public:
  static constexpr const char* kName = "KvmVfio";
  static constexpr napi_type_tag kTag = {0xd4613a8f70be4c29, 0x95f2e86b1c07ad54};
  static Napi::FunctionReference& Class(Addon& addon) { return addon.kvm_vfio; }
  static Napi::FunctionReference Define(Napi::Env env);
  using FdObject::FdObject;

 private:
  static Napi::Value Create(const Napi::CallbackInfo& info);
  Napi::Value Add(const Napi::CallbackInfo& info);
  Napi::Value Remove(const Napi::CallbackInfo& info);
};

}  // namespace vfio
