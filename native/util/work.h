#pragma once

#include <napi.h>
#include <pthread.h>
#include <uv.h>

#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace vfio {

/**
 * One long system call on a thread of its own, or several that belong together. Those of libuv's pool are few, files and
 * names need them, and the end of a process waits for them. What it captures stays alive until it has ended.
 */
class Work {
 public:
  using Execute = std::function<void()>;
  using Result = std::function<Napi::Value(Napi::Env)>;

  /**
   * A promise for `result`, made after `execute` ran elsewhere; a SystemFailure where no thread is to be had.
   * `execute` must not touch JavaScript.
   */
  static Napi::Value Start(Napi::Env env, const char* name, Execute&& execute, Result&& result);
  /** The same for a call that answers nothing. */
  static Napi::Value Start(Napi::Env env, const char* name, Execute&& execute);
};

/**
 * The long calls of one environment, whose end waits for them a moment and then leaves them behind: their
 * threads end by themselves, or with the process.
 */
class Calls : public std::enable_shared_from_this<Calls> {
 public:
  using Resources = std::vector<std::shared_ptr<const void>>;

  /** `leftovers` is asked at the end of the environment for what takes long to close. */
  static std::shared_ptr<Calls> Open(Napi::Env env, std::function<Resources()> leftovers);

  /** Whether the event loop goes on as long as one runs: at first it does. */
  void KeepAlive(bool on);

 private:
  friend class Work;
  struct Call;

  Calls(Napi::Env env, std::function<Resources()> leftovers);
  int Run(std::unique_ptr<Call>& call);
  void Finish(std::unique_ptr<Call> call);
  void OnFinished();
  void UpdateRef();
  void Settle(std::unique_ptr<Call> call);
  void Discard(std::unique_ptr<Call> call);
  void End();
  void Close();
  static void OnClosed(uv_handle_t* handle);

  // Of the environment's own thread.
  const Napi::Env env_;
  std::function<Resources()> leftovers_;
  uv_loop_t* loop_ = nullptr;
  uv_timer_t timer_{};
  std::vector<Call*> pending_;
  bool keeps_alive_ = true;
  int handles_ = 1;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  std::shared_ptr<Calls> self_;

  // Of all threads.
  std::mutex mutex_;
  uv_async_t async_{};
  std::vector<std::unique_ptr<Call>> finished_;
  size_t running_ = 0;
  /** Nobody is left to be told. */
  bool ended_ = false;
  /** The loop still listens. */
  bool open_ = true;
};

/** Those of an environment. */
Calls& CallsOf(Napi::Env env);

/** Lets a thread do something that nobody waits for, one that waits or a new one: 0, or an errno. */
int StartThread(void* (*body)(void*), void* data);

/** The same in a new thread, which has to be joined. */
int StartJoinable(pthread_t* thread, void* (*body)(void*), void* data);

}  // namespace vfio
