#pragma once

#include "fd.h"

namespace vfio {

/**
 * One epoll descriptor over many eventfds or files with messages, watched by the event loop: a call into JavaScript for each
 * batch.
 */
class Poll : public FdObject<Poll> {
 public:
  static constexpr const char* kName = "Poll";
  static constexpr napi_type_tag kTag = {0x7e5190c4b3d84f62, 0x1fa60d9be287c534};
  static Napi::FunctionReference& Class(Addon& addon) { return addon.poll; }
  static Napi::FunctionReference Define(Napi::Env env);
  using FdObject::FdObject;
  ~Poll() override;

 private:
  class Watch;

  static Napi::Value Open(const Napi::CallbackInfo& info);
  Napi::Value Add(const Napi::CallbackInfo& info);
  Napi::Value Remove(const Napi::CallbackInfo& info);
  Napi::Value AddMessages(const Napi::CallbackInfo& info);
  Napi::Value RemoveMessages(const Napi::CallbackInfo& info);
  void AddNumber(int number, uint64_t data);
  void RemoveNumber(int number);
  Napi::Value Start(const Napi::CallbackInfo& info);
  Napi::Value Stop(const Napi::CallbackInfo& info);
  Napi::Value Ref(const Napi::CallbackInfo& info);
  Napi::Value Unref(const Napi::CallbackInfo& info);
  Napi::Value End(const Napi::CallbackInfo& info);
  Watch& watch() const;

  // Frees itself when the loop has let it go.
  Watch* watch_ = nullptr;
};

}  // namespace vfio
