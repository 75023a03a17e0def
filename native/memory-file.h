#pragma once

#include "fd.h"

namespace vfio {

/** A file whose pages devices may use: one in memory alone, or a VMM's guest RAM. */
class MemoryFile : public FdObject<MemoryFile> {
 public:
  static constexpr const char* kName = "MemoryFile";
  static constexpr napi_type_tag kTag = {0x52c9d61e8b074fa3, 0xd83f1b6ea5470c92};
  static Napi::FunctionReference& Class(Addon& addon) { return addon.memory_file; }
  static Napi::FunctionReference Define(Napi::Env env);
  using FdObject::FdObject;

 private:
  static Napi::Value Create(const Napi::CallbackInfo& info);
  static Napi::Value Duplicate(const Napi::CallbackInfo& info);
  Napi::Value Seal(const Napi::CallbackInfo& info);
  Napi::Value Map(const Napi::CallbackInfo& info);
};

}  // namespace vfio
