#pragma once

#include "fd.h"

namespace vfio {

/** An open device: what it has, and its resets. */
class Device : public FdObject<Device> {
 public:
  static constexpr const char* kName = "Device";
  static constexpr napi_type_tag kTag = {0x61a4f0d95b3c4e88, 0xc27e93aa18b5d603};
  static Napi::FunctionReference& Class(Addon& addon) { return addon.device; }
  static Napi::FunctionReference Define(Napi::Env env);
  /** The calls that are made often. */
  static void DefineQuick(Napi::Object exports, Handles* handles);
  using FdObject::FdObject;

 private:
  static Napi::Value OpenCdev(const Napi::CallbackInfo& info);
  Napi::Value Info(const Napi::CallbackInfo& info);
  Napi::Value HotResetInfo(const Napi::CallbackInfo& info);
  Napi::Value Map(const Napi::CallbackInfo& info);
  Napi::Value SetIrqs(const Napi::CallbackInfo& info);
  Napi::Value Reset(const Napi::CallbackInfo& info);
  Napi::Value HotReset(const Napi::CallbackInfo& info);
  // native/feature.cc
  Napi::Value ProbeFeature(const Napi::CallbackInfo& info);
  Napi::Value Feature(const Napi::CallbackInfo& info);
  Napi::Value SetMigrationState(const Napi::CallbackInfo& info);
  Napi::Value StartDmaLogging(const Napi::CallbackInfo& info);
  Napi::Value DmaLoggingReport(const Napi::CallbackInfo& info);
  Napi::Value DmaBufOf(const Napi::CallbackInfo& info);
  Napi::Value ZpciError(const Napi::CallbackInfo& info);
  // native/ioeventfd.cc
  Napi::Value Ioeventfd(const Napi::CallbackInfo& info);
};

}  // namespace vfio
