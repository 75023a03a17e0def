#pragma once

#include "fd.h"

namespace vfio {

/** An open /dev/vfio/N: the devices that the IOMMU cannot tell apart. */
class Group : public FdObject<Group> {
 public:
  static constexpr const char* kName = "Group";
  static constexpr napi_type_tag kTag = {0x3c9be25c7a0649f1, 0xb5d8107e64f3a902};
  static Napi::FunctionReference& Class(Addon& addon) { return addon.group; }
  static Napi::FunctionReference Define(Napi::Env env);
  /** The calls that are made often. */
  static void DefineQuick(Napi::Object exports, Handles* handles);
  using FdObject::FdObject;

 private:
  static Napi::Value Open(const Napi::CallbackInfo& info);
  Napi::Value SetContainer(const Napi::CallbackInfo& info);
  Napi::Value UnsetContainer(const Napi::CallbackInfo& info);
  Napi::Value OpenDevice(const Napi::CallbackInfo& info);
};

}  // namespace vfio
