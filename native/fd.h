#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "handles.h"
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
  Napi::Reference<Napi::ArrayBuffer> answers;
  SharedFd adopted;
  // Shared with every object, since the last of them may go after this.
  const std::shared_ptr<Handles> handles = std::make_shared<Handles>();
};

/**
 * What every kernel object has in JavaScript: one descriptor, a type tag, close. `T` has a static `kTag`,
 * `kName` and `Class(Addon&)`.
 */
template <typename T>
class FdObject : public Napi::ObjectWrap<T> {
 public:
  explicit FdObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<T>(info) {
    Addon* addon = info.Env().template GetInstanceData<Addon>();
    if (!addon->adopted) BadArgument(info.Env(), std::string(T::kName) + " has no constructor: open it");
    Napi::Object self = info.This().template As<Napi::Object>();
    self.TypeTag(&T::kTag);
    handles_ = addon->handles;
    id_ = handles_->Add(T::kTag, std::move(addon->adopted));
    try {
      self.Set("id", Napi::Number::New(info.Env(), id_));
    } catch (...) {
      handles_->Remove(id_);
      throw;
    }
  }

  ~FdObject() override {
    if (handles_) handles_->Remove(id_);
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
  const SharedFd& fd() const { return handles_->OpenAt(id_, T::kTag); }

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
    return Work::Start(info.Env(), "vfio:close", [fd = std::move(handles_->At(id_, T::kTag))] {});
  }

  Napi::Value CloseNow(const Napi::CallbackInfo& info) {
    handles_->At(id_, T::kTag).reset();
    return info.Env().Undefined();
  }

  std::shared_ptr<Handles> handles_;
  uint32_t id_ = 0;
};

}  // namespace vfio
