#pragma once

#include <napi.h>

#include <exception>
#include <functional>

namespace vfio {

/** One long system call on a thread of libuv's pool. What it captures stays alive until it has ended. */
class Work {
 public:
  using Execute = std::function<void()>;
  using Result = std::function<Napi::Value(Napi::Env)>;

  /** A promise for `result`, made after `execute` ran elsewhere. `execute` must not touch JavaScript. */
  static Napi::Value Start(Napi::Env env, const char* name, Execute execute, Result result);
  /** The same for a call that answers nothing. */
  static Napi::Value Start(Napi::Env env, const char* name, Execute execute);

 private:
  Work(Napi::Env env, Execute execute, Result result);
  static void OnPool(napi_env, void* data);
  static void OnMain(napi_env env, napi_status, void* data);

  Napi::Promise::Deferred deferred_;
  Execute execute_;
  Result result_;
  std::exception_ptr failure_;
  napi_async_work work_ = nullptr;
};

}  // namespace vfio
