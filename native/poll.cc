#include "poll.h"

#include <sys/epoll.h>
#include <unistd.h>
#include <uv.h>

#include <cerrno>

#include "event-fd.h"
#include "host/messages.h"

namespace vfio {
namespace {

// What one call into JavaScript gets at most; the rest comes in the next turn of the loop.
constexpr int kBatch = 64;
// Of an eventfd in a batch: its key, and its count in two halves.
constexpr int kWords = 3;
// Of the lower half of what epoll gives back: not an eventfd, so that nothing is read here and it counts 0.
constexpr uint32_t kMessages = uint32_t{1} << 31;
// How many scopes a turn of the loop has, and calls a scope.
constexpr int kScopes = 16;
constexpr int kCalls = 16;

}  // namespace

/** The handle in the event loop. It lives until the loop has closed it, whatever became of its owner. */
class Poll::Watch {
 public:
  Watch(Napi::Env env, SharedFd epoll, Napi::Function callback)
      : env_(env),
        epoll_(std::move(epoll)),
        context_(env, "vfio:interrupt"),
        callback_(Napi::Persistent(callback)),
        batch_(Napi::Persistent(Napi::ArrayBuffer::New(env, kBatch * kWords * sizeof(uint32_t)))) {
    uv_loop_t* loop;
    if (napi_get_uv_event_loop(env, &loop) != napi_ok) throw Napi::Error::New(env);
    batch_words_ = static_cast<uint32_t*>(batch_.Value().Data());
    const int failed = uv_poll_init(loop, &handle_, epoll_->number());
    if (failed != 0) throw SystemFailure(-failed, "epoll_ctl", "poll", "event loop");
    handle_.data = this;
    // Without it the loop of a worker that ends would find the handle open, and abort.
    napi_add_async_cleanup_hook(
        env,
        [](napi_async_cleanup_hook_handle, void* watch) { static_cast<Watch*>(watch)->CloseInTeardown(); },
        this, &hook_);
  }

  Napi::ArrayBuffer batch() const { return batch_.Value(); }
  const Fd& epoll() const { return *epoll_; }

  void Start() { Check(uv_poll_start(&handle_, UV_READABLE, OnReadable)); }
  void Stop() { Check(uv_poll_stop(&handle_)); }
  void Ref() { uv_ref(reinterpret_cast<uv_handle_t*>(&handle_)); }
  void Unref() { uv_unref(reinterpret_cast<uv_handle_t*>(&handle_)); }

  /** Its owner lets it go. */
  void Abandon() {
    owner_ = nullptr;
    Close();
  }

  void SetOwner(Poll* owner) { owner_ = owner; }

 private:
  static void Check(int failed) {
    if (failed != 0) throw SystemFailure(-failed, "epoll_ctl", "poll", "event loop");
  }

  void Close() {
    if (uv_is_closing(reinterpret_cast<uv_handle_t*>(&handle_))) return;
    uv_close(reinterpret_cast<uv_handle_t*>(&handle_), [](uv_handle_t* handle) {
      Watch* watch = static_cast<Watch*>(handle->data);
      const napi_async_cleanup_hook_handle hook = watch->hook_;
      delete watch;
      // Last, because it holds back the end of the environment.
      napi_remove_async_cleanup_hook(hook);
    });
  }

  void CloseInTeardown() {
    if (owner_) owner_->watch_ = nullptr;
    owner_ = nullptr;
    // References cannot be let go once the environment is gone.
    callback_.Reset();
    batch_.Reset();
    Close();
  }

  static void OnReadable(uv_poll_t* handle, int, int) { static_cast<Watch*>(handle->data)->Drain(); }

  // Again as long as more has come meanwhile, which spares a turn of the loop for each; after a bounded
  // number it is the others' turn. What a callback has put off (ticks, promises) runs at the end of each
  // scope.
  void Drain() {
    for (int scopes = 0; scopes < kScopes && IsWatching(); scopes++) {
      int count = Read();
      if (count == 0) return;
      const Napi::HandleScope handles(env_);
      const Napi::CallbackScope scope(env_, context_);
      for (int calls = 1; count > 0; calls++) {
        Call(count);
        count = calls < kCalls && IsWatching() ? Read() : 0;
      }
    }
  }

  // Not any more once the callback has stopped or closed it, or its environment has ended.
  bool IsWatching() const {
    return !callback_.IsEmpty() && uv_is_active(reinterpret_cast<const uv_handle_t*>(&handle_));
  }

  int Read() {
    epoll_event events[kBatch];
    const int ready = ::epoll_wait(epoll_->number(), events, kBatch, 0);
    int count = 0;
    for (int i = 0; i < ready; i++) {
      uint64_t value = 0;
      // The lower half is the descriptor, the upper one what JavaScript calls it.
      const auto which = static_cast<uint32_t>(events[i].data.u64);
      if (!(which & kMessages) && ::read(static_cast<int>(which), &value, sizeof value) != sizeof value)
        continue;
      uint32_t* const words = batch_words_ + kWords * count;
      words[0] = static_cast<uint32_t>(events[i].data.u64 >> 32);
      words[1] = static_cast<uint32_t>(value);
      words[2] = static_cast<uint32_t>(value >> 32);
      count++;
    }
    return count;
  }

  // Without the wrappers, which cost as much as the call.
  void Call(int count) {
    napi_handle_scope scope;
    if (napi_open_handle_scope(env_, &scope) != napi_ok) return;
    napi_value callback;
    napi_value argument;
    napi_value receiver;
    napi_get_reference_value(env_, callback_, &callback);
    napi_create_int32(env_, count, &argument);
    napi_get_undefined(env_, &receiver);
    if (napi_call_function(env_, receiver, callback, 1, &argument, nullptr) != napi_ok) {
      bool has_thrown = false;
      napi_value error;
      // Else the environment is going away.
      if (napi_is_exception_pending(env_, &has_thrown) == napi_ok && has_thrown &&
          napi_get_and_clear_last_exception(env_, &error) == napi_ok) {
        napi_fatal_exception(env_, error);
      }
    }
    napi_close_handle_scope(env_, scope);
  }

  const Napi::Env env_;
  const SharedFd epoll_;
  const Napi::AsyncContext context_;
  Napi::FunctionReference callback_;
  Napi::Reference<Napi::ArrayBuffer> batch_;
  uint32_t* batch_words_ = nullptr;
  uv_poll_t handle_{};
  napi_async_cleanup_hook_handle hook_ = nullptr;
  Poll* owner_ = nullptr;
};

Poll::~Poll() {
  if (watch_) watch_->Abandon();
}

Napi::FunctionReference Poll::Define(Napi::Env env) {
  return DefineFdClass(env, {
                                DefineStatic<&Poll::Open>("open"),
                                DefineMethod<&Poll::Add>("add"),
                                DefineMethod<&Poll::Remove>("remove"),
                                DefineMethod<&Poll::AddMessages>("addMessages"),
                                DefineMethod<&Poll::RemoveMessages>("removeMessages"),
                                DefineMethod<&Poll::Start>("start"),
                                DefineMethod<&Poll::Stop>("stop"),
                                DefineMethod<&Poll::Ref>("ref"),
                                DefineMethod<&Poll::Unref>("unref"),
                                DefineMethod<&Poll::End>("end"),
                            });
}

Napi::Value Poll::Open(const Napi::CallbackInfo& info) {
  if (!info[0].IsFunction()) BadArgument(info.Env(), "callback must be a function");
  const int number = ::epoll_create1(EPOLL_CLOEXEC);
  if (number < 0) throw SystemFailure(errno, "epoll_create1", "poll", "epoll");
  const auto epoll = std::make_shared<const Fd>(number, "epoll");
  const Napi::Object self = Adopt(info.Env(), epoll);
  auto* watch = new Watch(info.Env(), epoll, info[0].As<Napi::Function>());
  Poll& poll = From(info.Env(), self);
  poll.watch_ = watch;
  watch->SetOwner(&poll);
  self.Set("batch", watch->batch());
  return self;
}

Poll::Watch& Poll::watch() const {
  if (!watch_) throw Refusal("ERR_VFIO_CLOSED", "this object is closed");
  return *watch_;
}

void Poll::AddNumber(int number, uint64_t data) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = data;
  if (::epoll_ctl(watch().epoll().number(), EPOLL_CTL_ADD, number, &event) < 0)
    throw SystemFailure(errno, "epoll_ctl", "poll", "epoll");
}

void Poll::RemoveNumber(int number) {
  if (::epoll_ctl(watch().epoll().number(), EPOLL_CTL_DEL, number, nullptr) < 0)
    throw SystemFailure(errno, "epoll_ctl", "poll", "epoll");
}

Napi::Value Poll::Add(const Napi::CallbackInfo& info) {
  const int number = EventFd::From(info.Env(), info[0]).fd()->number();
  AddNumber(number, uint64_t{Uint32Argument(info, 1, "key")} << 32 | static_cast<uint32_t>(number));
  return info.Env().Undefined();
}

Napi::Value Poll::Remove(const Napi::CallbackInfo& info) {
  RemoveNumber(EventFd::From(info.Env(), info[0]).fd()->number());
  return info.Env().Undefined();
}

Napi::Value Poll::AddMessages(const Napi::CallbackInfo& info) {
  const int number = Messages::From(info.Env(), info[0]).fd()->number();
  AddNumber(number, uint64_t{Uint32Argument(info, 1, "key")} << 32 | kMessages | static_cast<uint32_t>(number));
  return info.Env().Undefined();
}

Napi::Value Poll::RemoveMessages(const Napi::CallbackInfo& info) {
  RemoveNumber(Messages::From(info.Env(), info[0]).fd()->number());
  return info.Env().Undefined();
}

Napi::Value Poll::Start(const Napi::CallbackInfo& info) {
  watch().Start();
  return info.Env().Undefined();
}

Napi::Value Poll::Stop(const Napi::CallbackInfo& info) {
  watch().Stop();
  return info.Env().Undefined();
}

Napi::Value Poll::Ref(const Napi::CallbackInfo& info) {
  watch().Ref();
  return info.Env().Undefined();
}

Napi::Value Poll::Unref(const Napi::CallbackInfo& info) {
  watch().Unref();
  return info.Env().Undefined();
}

// The descriptor itself closes with the handle, not before: the loop has it.
Napi::Value Poll::End(const Napi::CallbackInfo& info) {
  if (watch_) watch_->Abandon();
  watch_ = nullptr;
  return info.Env().Undefined();
}

}  // namespace vfio
