#pragma once

#include "fd.h"

namespace vfio {

/** An open /dev/iommu: address spaces and page tables by the numbers that the kernel gives them. */
class Iommufd : public FdObject<Iommufd> {
 public:
  static constexpr const char* kName = "Iommufd";
  static constexpr napi_type_tag kTag = {0x7c05e1b94f2d4a36, 0xa3d98b60c7f1425e};
  static Napi::FunctionReference& Class(Addon& addon) { return addon.iommufd; }
  static Napi::FunctionReference Define(Napi::Env env);
  /** The calls that are made often. */
  static void DefineQuick(Napi::Object exports, Handles* handles);
  using FdObject::FdObject;

 private:
  static Napi::Value Open(const Napi::CallbackInfo& info);
  Napi::Value IovaRanges(const Napi::CallbackInfo& info);
  Napi::Value HwInfo(const Napi::CallbackInfo& info);
  Napi::Value DirtyBitmap(const Napi::CallbackInfo& info);
};

}  // namespace vfio
