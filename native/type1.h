#pragma once

#include "fd.h"

namespace vfio {

/** An open /dev/vfio/vfio: an IOMMU context that groups join, with the memory that their devices may use. */
class Container : public FdObject<Container> {
 public:
  static constexpr const char* kName = "Container";
  static constexpr napi_type_tag kTag = {0x8f0f4c5a1d2b4e07, 0x9a61c3b0f7d2e401};
  static Napi::FunctionReference& Class(Addon& addon) { return addon.container; }
  static Napi::FunctionReference Define(Napi::Env env);
  /** The calls that are made often. */
  static void DefineQuick(Napi::Object exports, Handles* handles);
  using FdObject::FdObject;

 private:
  static Napi::Value Open(const Napi::CallbackInfo& info);
  Napi::Value ApiVersion(const Napi::CallbackInfo& info);
  Napi::Value CheckExtension(const Napi::CallbackInfo& info);
  Napi::Value SetIommu(const Napi::CallbackInfo& info);
  Napi::Value IommuInfo(const Napi::CallbackInfo& info);
  Napi::Value MapDma(const Napi::CallbackInfo& info);
  Napi::Value UnmapDma(const Napi::CallbackInfo& info);
  Napi::Value LogDirtyPages(const Napi::CallbackInfo& info);
  Napi::Value DirtyBitmap(const Napi::CallbackInfo& info);
  Napi::Value UnmapDirty(const Napi::CallbackInfo& info);
};

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
