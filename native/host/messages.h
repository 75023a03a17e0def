#pragma once

#include "fd.h"

namespace vfio {

/** A file that gives messages of the kernel: its events of devices, its log, or what happens to files (inotify.cc). */
class Messages : public FdObject<Messages> {
 public:
  static constexpr const char* kName = "Messages";
  static constexpr napi_type_tag kTag = {0x5a0c94be1f7d42e3, 0x86b1d7f20e9c3a58};
  static Napi::FunctionReference& Class(Addon& addon) { return addon.messages; }
  static Napi::FunctionReference Define(Napi::Env env);
  using FdObject::FdObject;

 private:
  static Napi::Value OpenUevents(const Napi::CallbackInfo& info);
  static Napi::Value OpenLog(const Napi::CallbackInfo& info);
  static Napi::Value OpenInotify(const Napi::CallbackInfo& info);
  Napi::Value AddPath(const Napi::CallbackInfo& info);
  Napi::Value Receive(const Napi::CallbackInfo& info);
  Napi::Value Read(const Napi::CallbackInfo& info);
};

// networkOwner() -> the inode of the user namespace that this network namespace belongs to
Napi::Value NetworkOwner(const Napi::CallbackInfo& info);

}  // namespace vfio
