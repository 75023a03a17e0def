#pragma once

#include "fd.h"

namespace vfio {

/** The stream that a device's state is saved to or loaded from. */
class MigrationData : public FdObject<MigrationData> {
 public:
  static constexpr const char* kName = "MigrationData";
  static constexpr napi_type_tag kTag = {0x2f7be1904cd34a6d, 0x8e05d2c7914bfa33};
  static Napi::FunctionReference& Class(Addon& addon) { return addon.migration_data; }
  static Napi::FunctionReference Define(Napi::Env env);
  using FdObject::FdObject;

 private:
  Napi::Value Read(const Napi::CallbackInfo& info);
  Napi::Value Write(const Napi::CallbackInfo& info);
};

}  // namespace vfio
