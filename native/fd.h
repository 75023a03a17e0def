#pragma once

#include <napi.h>

#include <string>
#include <utility>
#include <vector>

#include "util/arguments.h"
#include "util/failure.h"
#include "util/fd.h"
#include "util/work.h"

namespace vfio {

/** Opens a file for reading and writing; `request` says in errors what it is. */
SharedFd OpenFile(const std::string& path, const char* request);

/** Per environment, so that every worker has its own: the classes, and the descriptor that a constructor is
 * to take over. */
struct Addon {
  Napi::FunctionReference container;
  Napi::FunctionReference group;
  Napi::FunctionReference device;
  SharedFd adopted;
};

/** What an object and its quick functions share: the descriptor, until it is closed. */
using Slot = std::shared_ptr<SharedFd>;

/** The open descriptor, or ERR_VFIO_CLOSED. */
const SharedFd& OpenIn(const SharedFd& slot);

/** A call on a descriptor; of the arguments there are always two. */
using Quick = napi_value (*)(Napi::Env env, const Fd& fd, const napi_value* arguments);

/** Gives `self` a function of its own: finding the object behind `this` would cost more than all the rest of
 * the call. */
void DefineQuickFunction(Napi::Object self, const char* name, const Slot& slot, napi_callback callback);

template <Quick quick>
napi_value CallQuick(napi_env env, napi_callback_info info) {
  return Napi::details::WrapCallback(env, [&]() -> napi_value {
    size_t count = 2;
    napi_value arguments[2];
    void* slot;
    napi_get_cb_info(env, info, &count, arguments, nullptr, &slot);
    try {
      return quick(env, *OpenIn(**static_cast<Slot*>(slot)), arguments);
    } catch (...) {
      throw ToError(env);
    }
  });
}

/**
 * What every kernel object has in JavaScript: one descriptor, a type tag, close. `T` has a static `kTag`,
 * `kName` and `Class(Addon&)`.
 */
template <typename T>
class FdObject : public Napi::ObjectWrap<T> {
 public:
  explicit FdObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<T>(info) {
    SharedFd& adopted = info.Env().template GetInstanceData<Addon>()->adopted;
    if (!adopted) BadArgument(info.Env(), std::string(T::kName) + " has no constructor: open it");
    Napi::Object self = info.This().template As<Napi::Object>();
    self.TypeTag(&T::kTag);
    *slot_ = std::move(adopted);
    T::DefineQuick(self, slot_);
  }

  /** An object that owns `fd`. */
  static Napi::Value Adopt(Napi::Env env, SharedFd fd) {
    Addon* addon = env.GetInstanceData<Addon>();
    addon->adopted = std::move(fd);
    try {
      return T::Class(*addon).New({});
    } catch (...) {
      // Else the next `new` from JavaScript would get it.
      addon->adopted.reset();
      throw;
    }
  }

  /** The object behind a value, or a TypeError: the tag tells it from every other object. */
  static T& From(Napi::Env env, const Napi::Value& value) {
    if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&T::kTag)) {
      BadArgument(env, std::string("expected a ") + T::kName);
    }
    return *T::Unwrap(value.As<Napi::Object>());
  }

  /** The open descriptor, or ERR_VFIO_CLOSED. */
  const SharedFd& fd() const { return OpenIn(*slot_); }

 protected:
  using Method = Napi::Value (T::*)(const Napi::CallbackInfo&);
  using Opener = Napi::Value (*)(const Napi::CallbackInfo&);

  /** A method whose C++ exceptions arrive as errors of lib/errors.ts. */
  template <Method method>
  static typename FdObject::PropertyDescriptor DefineMethod(const char* name) {
    return FdObject::InstanceMethod(name, &FdObject::template Call<method>);
  }

  template <Opener opener>
  static typename FdObject::PropertyDescriptor DefineStatic(const char* name) {
    return FdObject::StaticMethod(name, &FdObject::template CallStatic<opener>);
  }

  static Napi::FunctionReference DefineFdClass(Napi::Env env,
                                               std::vector<typename FdObject::PropertyDescriptor> members) {
    members.push_back(FdObject::InstanceMethod("close", &FdObject::Close));
    members.push_back(FdObject::InstanceMethod("closeNow", &FdObject::CloseNow));
    return Napi::Persistent(Napi::ObjectWrap<T>::DefineClass(env, T::kName, members));
  }

  /** Overridden where calls are made often. */
  static void DefineQuick(Napi::Object, const Slot&) {}

 private:
  template <Method method>
  Napi::Value Call(const Napi::CallbackInfo& info) {
    try {
      return (static_cast<T*>(this)->*method)(info);
    } catch (...) {
      throw ToError(info.Env());
    }
  }

  template <Opener opener>
  static Napi::Value CallStatic(const Napi::CallbackInfo& info) {
    try {
      return opener(info);
    } catch (...) {
      throw ToError(info.Env());
    }
  }

  // The last close of a device resets it, which takes long.
  Napi::Value Close(const Napi::CallbackInfo& info) {
    return Work::Start(info.Env(), "vfio:close", [fd = std::move(*slot_)] {});
  }

  Napi::Value CloseNow(const Napi::CallbackInfo& info) {
    slot_->reset();
    return info.Env().Undefined();
  }

  const Slot slot_ = std::make_shared<SharedFd>();
};

}  // namespace vfio
