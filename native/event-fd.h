#pragma once

#include "fd.h"

namespace vfio {

/** An eventfd: a counter that the kernel, a VMM or this process adds to, and that reading sets to zero. */
class EventFd : public FdObject<EventFd> {
 public:
  static constexpr const char* kName = "EventFd";
  static constexpr napi_type_tag kTag = {0x0b6f7c2d91e84a35, 0xe4d1a8027f5c63b9};
  static Napi::FunctionReference& Class(Addon& addon) { return addon.event_fd; }
  static Napi::FunctionReference Define(Napi::Env env);
  using FdObject::FdObject;

 private:
  static Napi::Value Create(const Napi::CallbackInfo& info);
  Napi::Value Signal(const Napi::CallbackInfo& info);
  Napi::Value Read(const Napi::CallbackInfo& info);
};

}  // namespace vfio
