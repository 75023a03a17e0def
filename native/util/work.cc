#include "util/work.h"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string>
#include <utility>

#include "util/failure.h"

// The only function of libuv here that Deno has not; a symbol that is missing would keep the whole addon out.
#pragma weak uv_update_time

namespace vfio {
namespace {

// In milliseconds: longer than a function reset takes, so that a worker seldom leaves something open.
constexpr uint64_t kGrace = 1000;
// Enough for the services that know names of accounts, and little where all memory is locked.
constexpr size_t kStack = 1 << 20;

// How long a thread waits for more to do, in seconds, and how many do: beginning one takes longer than most calls.
constexpr time_t kIdle = 5;
constexpr size_t kMostIdle = 4;

using Lock = std::lock_guard<std::mutex>;
using Body = void* (*)(void*);

/** A thread that waits for what it is to do next; on its own stack. */
struct Idle {
  Body body = nullptr;
  void* data = nullptr;
  uint32_t given = 0;
};

// Of all environments, and never destroyed: a process ends while threads wait.
std::mutex idle_mutex;
Idle* idle[kMostIdle];
size_t idle_count = 0;

bool IsGiven(const Idle& self) {
  return __atomic_load_n(&self.given, __ATOMIC_ACQUIRE) != 0;
}

/** The next thing to do; false where nothing came, or enough others wait. */
bool Await(Idle& self) {
  self.given = 0;
  {
    const Lock lock(idle_mutex);
    if (idle_count == kMostIdle) return false;
    idle[idle_count++] = &self;
  }
  const timespec time{kIdle, 0};
  while (!IsGiven(self)) {
    // Not a condition variable, whose clock that stands still no older C library has.
    if (::syscall(SYS_futex, &self.given, FUTEX_WAIT_PRIVATE, 0, &time, nullptr, 0) == 0 || errno != ETIMEDOUT)
      continue;
    const Lock lock(idle_mutex);
    Idle** const end = idle + idle_count;
    Idle** const place = std::find(idle, end, &self);
    // Given something at the last moment.
    if (place == end) continue;
    std::copy(place + 1, end, place);
    idle_count--;
    return false;
  }
  return true;
}

/** Gives it to a thread that waits, if one does. */
bool GiveToIdle(Body body, void* data) {
  const Lock lock(idle_mutex);
  if (idle_count == 0) return false;
  // The last one, whose stack is still at hand.
  Idle& one = *idle[--idle_count];
  one.body = body;
  one.data = data;
  __atomic_store_n(&one.given, 1, __ATOMIC_RELEASE);
  // It may have seen that already: then nobody waits at this address.
  ::syscall(SYS_futex, &one.given, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  return true;
}

void* RunAll(void* first) {
  Idle self = *std::unique_ptr<Idle>(static_cast<Idle*>(first));
  do {
    self.body(self.data);
    ::prctl(PR_SET_NAME, "vfio-idle");
  } while (Await(self));
  return nullptr;
}

int MakeThread(pthread_t* thread, int detached, Body body, void* data) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, detached);
  pthread_attr_setstacksize(&attributes, kStack);
  // Signals are for the threads of the program; only those of a fault come to whoever made it.
  sigset_t blocked, former;
  sigfillset(&blocked);
  for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL}) sigdelset(&blocked, fault);
  pthread_sigmask(SIG_SETMASK, &blocked, &former);
  const int failed = pthread_create(thread, &attributes, body, data);
  pthread_sigmask(SIG_SETMASK, &former, nullptr);
  pthread_attr_destroy(&attributes);
  return failed;
}

}  // namespace

int StartThread(Body body, void* data) {
  if (GiveToIdle(body, data)) return 0;
  std::unique_ptr<Idle> first(new Idle{body, data});
  pthread_t thread;
  const int failed = MakeThread(&thread, PTHREAD_CREATE_DETACHED, RunAll, first.get());
  if (failed == 0) first.release();
  return failed;
}

int StartJoinable(pthread_t* thread, Body body, void* data) {
  return MakeThread(thread, PTHREAD_CREATE_JOINABLE, body, data);
}

struct Calls::Call {
  std::shared_ptr<Calls> calls;
  const char* name;
  Work::Execute execute;
  Work::Result result;
  std::exception_ptr failure;
  // Of JavaScript: only its own thread may touch it.
  std::optional<Napi::Promise::Deferred> deferred;
  std::unique_ptr<Napi::AsyncContext> context;
};

Napi::Value Work::Start(Napi::Env env, const char* name, Execute&& execute, Result&& result) {
  Calls& calls = CallsOf(env);
  std::unique_ptr<Calls::Call> call(new Calls::Call);
  call->calls = calls.shared_from_this();
  call->name = name;
  // A function that was moved from may still have a copy of what it captured (libc++), and the last one closes a file.
  call->execute = std::exchange(execute, nullptr);
  call->result = std::move(result);
  call->context = std::make_unique<Napi::AsyncContext>(env, name);
  const Napi::Promise::Deferred deferred = Napi::Promise::Deferred::New(env);
  call->deferred = deferred;
  const int failed = calls.Run(call);
  if (failed != 0) {
    // Which frees it: what is thrown tells the caller.
    deferred.Resolve(env.Undefined());
    throw SystemFailure(failed, "pthread_create", "thread", std::string("a thread for ") + name);
  }
  return deferred.Promise();
}

Napi::Value Work::Start(Napi::Env env, const char* name, Execute&& execute) {
  return Start(env, name, std::move(execute), [](Napi::Env env) { return env.Undefined(); });
}

Calls::Calls(Napi::Env env, std::function<Resources()> leftovers)
    : env_(env), leftovers_(std::move(leftovers)) {}

std::shared_ptr<Calls> Calls::Open(Napi::Env env, std::function<Resources()> leftovers) {
  std::shared_ptr<Calls> calls(new Calls(env, std::move(leftovers)));
  if (napi_get_uv_event_loop(env, &calls->loop_) != napi_ok) throw Napi::Error::New(env);
  const int failed = uv_async_init(calls->loop_, &calls->async_, [](uv_async_t* handle) {
    static_cast<Calls*>(handle->data)->OnFinished();
  });
  if (failed != 0) throw SystemFailure(-failed, "eventfd", "thread", "event loop");
  calls->async_.data = calls.get();
  calls->timer_.data = calls.get();
  calls->UpdateRef();
  // Until the loop has let the handles go.
  calls->self_ = calls;
  // Not a plain hook: the loop needs a turn to close a handle.
  napi_add_async_cleanup_hook(
      env, [](napi_async_cleanup_hook_handle, void* calls) { static_cast<Calls*>(calls)->End(); },
      calls.get(), &calls->hook_);
  return calls;
}

void Calls::KeepAlive(bool on) {
  keeps_alive_ = on;
  UpdateRef();
}

void Calls::UpdateRef() {
  const bool on = keeps_alive_ && !pending_.empty();
  (on ? uv_ref : uv_unref)(reinterpret_cast<uv_handle_t*>(&async_));
}

/** Gives a call to a thread: 0, or the errno of why there is none, and then it is still the caller's. */
int Calls::Run(std::unique_ptr<Call>& call) {
  {
    const Lock lock(mutex_);
    running_++;
    // So that no thread has to find memory for what it brings.
    finished_.reserve(running_ + finished_.size());
  }
  if (call->context) pending_.push_back(call.get());
  const auto body = [](void* data) -> void* {
    std::unique_ptr<Call> call(static_cast<Call*>(data));
    // For ps and top, which show the first 15 characters.
    ::prctl(PR_SET_NAME, call->name);
    try {
      if (call->execute) call->execute();
    } catch (...) {
      call->failure = std::current_exception();
    }
    // Here, because the last reference to a descriptor closes it, and that may take long too.
    call->execute = nullptr;
    const std::shared_ptr<Calls> calls = call->calls;
    calls->Finish(std::move(call));
    return nullptr;
  };
  const int failed = StartThread(body, call.get());
  if (failed == 0) {
    call.release();
    UpdateRef();
  } else {
    if (call->context) pending_.pop_back();
    const Lock lock(mutex_);
    running_--;
  }
  return failed;
}

/** Of a thread: its call has ended. */
void Calls::Finish(std::unique_ptr<Call> call) {
  {
    const Lock lock(mutex_);
    if (!ended_ && call->context) {
      running_--;
      finished_.push_back(std::move(call));
      uv_async_send(&async_);
      return;
    }
  }
  // Nobody awaits the result, which closes here: without the lock.
  call.reset();
  const Lock lock(mutex_);
  running_--;
  if (open_) uv_async_send(&async_);
}

void Calls::OnFinished() {
  const std::shared_ptr<Calls> self = shared_from_this();
  std::vector<std::unique_ptr<Call>> finished;
  bool is_over;
  {
    const Lock lock(mutex_);
    finished.swap(finished_);
    finished_.reserve(running_);
    is_over = ended_ && running_ == 0;
  }
  for (std::unique_ptr<Call>& call : finished) Settle(std::move(call));
  if (is_over) Close();
}

void Calls::Settle(std::unique_ptr<Call> call) {
  pending_.erase(std::find(pending_.begin(), pending_.end(), call.get()));
  UpdateRef();
  const Napi::HandleScope handles(env_);
  try {
    // What waits for the promise runs at the end of the scope.
    const Napi::CallbackScope scope(env_, *call->context);
    try {
      if (call->failure) std::rethrow_exception(call->failure);
      call->deferred->Resolve(call->result(env_));
      // What it brought has one owner, before that one hears of it.
      call->result = nullptr;
    } catch (...) {
      call->deferred->Reject(ToError(env_).Value());
    }
  } catch (const Napi::Error&) {
    // The environment is going away: nobody is left to be told.
    Discard(std::move(call));
  }
}

/** Frees what a call brought on a thread: it may be an open device. */
void Calls::Discard(std::unique_ptr<Call> call) {
  call->context.reset();
  Run(call);
}

void Calls::End() {
  Resources leftovers = leftovers_();
  leftovers_ = nullptr;
  std::vector<std::unique_ptr<Call>> finished;
  {
    const Lock lock(mutex_);
    ended_ = true;
    finished.swap(finished_);
    for (Call* call : pending_) call->context.reset();
    pending_.clear();
  }
  for (std::unique_ptr<Call>& call : finished) Discard(std::move(call));
  for (std::shared_ptr<const void>& leftover : leftovers) {
    std::unique_ptr<Call> call(new Call);
    call->calls = shared_from_this();
    call->name = "vfio:close";
    call->execute = [leftover = std::move(leftover)] {};
    Discard(std::move(call));
  }
  bool is_over;
  {
    const Lock lock(mutex_);
    is_over = running_ == 0;
  }
  // The end of the main thread is that of the process, which closes everything by itself.
  if (is_over || loop_ == uv_default_loop()) return Close();
  // Else the time may be the one from before a long computation.
  if (uv_update_time != nullptr) uv_update_time(loop_);
  uv_timer_init(loop_, &timer_);
  handles_++;
  uv_timer_start(&timer_, [](uv_timer_t* timer) { static_cast<Calls*>(timer->data)->Close(); }, kGrace, 0);
}

void Calls::Close() {
  uv_handle_t* const async = reinterpret_cast<uv_handle_t*>(&async_);
  if (uv_is_closing(async)) return;
  {
    const Lock lock(mutex_);
    open_ = false;
  }
  uv_close(async, OnClosed);
  if (handles_ > 1) uv_close(reinterpret_cast<uv_handle_t*>(&timer_), OnClosed);
}

void Calls::OnClosed(uv_handle_t* handle) {
  Calls* const calls = static_cast<Calls*>(handle->data);
  if (--calls->handles_ > 0) return;
  const std::shared_ptr<Calls> self = std::move(calls->self_);
  // It holds back the end of the environment.
  napi_remove_async_cleanup_hook(self->hook_);
}

}  // namespace vfio
