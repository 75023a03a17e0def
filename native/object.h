#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <utility>

#include "handles.h"
#include "util/arguments.h"
#include "util/failure.h"

namespace vfio {

/** Per environment, so that every worker has its own: the classes, and the resource that a constructor is to
 * take over. */
struct Addon {
  Napi::FunctionReference container;
  Napi::FunctionReference group;
  Napi::FunctionReference device;
  Napi::FunctionReference event_fd;
  Napi::FunctionReference poll;
  Napi::FunctionReference memory;
  Napi::FunctionReference memory_file;
  Napi::FunctionReference kvm_vfio;
  Napi::FunctionReference migration_data;
  Napi::Reference<Napi::ArrayBuffer> answers;
  Resource adopted;
  // Shared with every object, since the last of them may go after this.
  const std::shared_ptr<Handles> handles = std::make_shared<Handles>();
};

/**
 * What every object has in JavaScript: one resource, a type tag, a number. `T` has a static `kTag`, `kName`
 * and `Class(Addon&)`; `R` is what it stands for.
 */
template <typename T, typename R>
class Object : public Napi::ObjectWrap<T> {
 public:
  using Owned = R;

  explicit Object(const Napi::CallbackInfo& info) : Napi::ObjectWrap<T>(info) {
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

  ~Object() override {
    if (handles_) handles_->Remove(id_);
  }

  /** An object that stands for `owned`. */
  static Napi::Object Adopt(Napi::Env env, std::shared_ptr<const R> owned) {
    Addon* addon = env.GetInstanceData<Addon>();
    addon->adopted = std::move(owned);
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

  /** What it stands for, or ERR_VFIO_CLOSED. */
  std::shared_ptr<const R> owned() const {
    return std::static_pointer_cast<const R>(handles_->OpenAt(id_, T::kTag));
  }

 protected:
  using Opener = Napi::Value (*)(const Napi::CallbackInfo&);

  /** A method whose C++ exceptions arrive as errors of lib/errors.ts. */
  template <auto method>
  static typename Object::PropertyDescriptor DefineMethod(const char* name) {
    return Object::InstanceMethod(name, &Object::template Call<method>);
  }

  template <Opener opener>
  static typename Object::PropertyDescriptor DefineStatic(const char* name) {
    return Object::StaticMethod(name, &Object::template CallStatic<opener>);
  }

  /** Leaves the object closed; what it stood for, empty where that has happened before. */
  Resource Take() { return std::move(handles_->At(id_, T::kTag)); }

 private:
  template <auto method>
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

  std::shared_ptr<Handles> handles_;
  uint32_t id_ = 0;
};

}  // namespace vfio
