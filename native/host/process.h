#pragma once

#include "object.h"
#include "util/fd.h"

namespace vfio {

/** A process by its pidfd: no other process is ever taken for it. */
struct ProcessEnd {
  ProcessEnd(pid_t pid, SharedFd pidfd, SharedFd gate)
      : pid(pid), pidfd(std::move(pidfd)), gate(std::move(gate)) {}

  const pid_t pid;
  const SharedFd pidfd;
  /** Of one that was started: it waits there, and ends where nobody has this any more. */
  mutable SharedFd gate;
};

/** A process that was started here, which waits until it is told to go on, or any other by its pid. */
class Process : public ObjectOf<Process, ProcessEnd> {
 public:
  static constexpr const char* kName = "Process";
  static constexpr napi_type_tag kTag = {0x41d6b82e7f0c4a93, 0xc27d95e30b1f68a4};
  static Napi::FunctionReference& Class(Addon& addon) { return addon.process; }
  static Napi::FunctionReference Define(Napi::Env env);
  using ObjectOf::ObjectOf;

 private:
  static Napi::Value Start(const Napi::CallbackInfo& info);
  static Napi::Value Open(const Napi::CallbackInfo& info);
  static Napi::Object Made(Napi::Env env, pid_t pid, SharedFd pidfd, SharedFd gate);
  Napi::Value Proceed(const Napi::CallbackInfo& info);
  Napi::Value Wait(const Napi::CallbackInfo& info);
  Napi::Value Reap(const Napi::CallbackInfo& info);
  Napi::Value Ended(const Napi::CallbackInfo& info);
  Napi::Value Signal(const Napi::CallbackInfo& info);
};

struct GuardEnd {
  GuardEnd(pid_t pid, SharedFd socket) : pid(pid), socket(std::move(socket)) {}

  const pid_t pid;
  const SharedFd socket;
};

/**
 * A process that holds nothing of this one but the other end of a socket, and executes a program when this one has died
 * without a word, however that came.
 */
class Guard : public ObjectOf<Guard, GuardEnd> {
 public:
  static constexpr const char* kName = "Guard";
  static constexpr napi_type_tag kTag = {0x9be21f40d7c8356a, 0x5a03c4d8916e7fb2};
  static Napi::FunctionReference& Class(Addon& addon) { return addon.guard; }
  static Napi::FunctionReference Define(Napi::Env env);
  using ObjectOf::ObjectOf;

 private:
  static Napi::Value Start(const Napi::CallbackInfo& info);
  Napi::Value Dismiss(const Napi::CallbackInfo& info);
  Napi::Value Ended(const Napi::CallbackInfo& info);
};

}  // namespace vfio
