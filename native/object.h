#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "handles.h"
#include "util/arguments.h"
#include "util/failure.h"
#include "util/work.h"

namespace vfio {

/** Per environment, so that every worker has its own: the classes, and the resource that a constructor is to
 * take over. */
struct Addon {
  Napi::FunctionReference container;
  Napi::FunctionReference group;
  Napi::FunctionReference device;
  Napi::FunctionReference iommufd;
  Napi::FunctionReference dma_buf;
  Napi::FunctionReference event_fd;
  Napi::FunctionReference poll;
  Napi::FunctionReference memory;
  Napi::FunctionReference memory_file;
  Napi::FunctionReference kvm_vfio;
  Napi::FunctionReference migration_data;
  Napi::FunctionReference process;
  Napi::FunctionReference guard;
  Napi::FunctionReference messages;
  Resource adopted;
  // Shared with every object, since the last of them may go after this.
  const std::shared_ptr<Handles> handles = std::make_shared<Handles>();
  std::shared_ptr<Calls> calls;
};

class Object;

/** A class of JavaScript: what its objects are called, how they are told from others, how one is made. */
struct ObjectClass {
  const char* name;
  const napi_type_tag* tag;
  Object* (*make)(const Napi::CallbackInfo& info);
};

/**
 * What every object has in JavaScript: one resource, a type tag, a number. Napi::ObjectWrap would have all of
 * its code again for each class.
 */
class Object {
 public:
  virtual ~Object();
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  using Method = Napi::Value (*)(Object& self, const Napi::CallbackInfo& info);
  /** What a method finds as the data of its call. */
  struct MethodOf {
    const ObjectClass* object_class;
    Method call;
  };

  /** What it stands for, or ERR_VFIO_CLOSED. */
  const Resource& resource() const;
  /** Leaves the object closed; what it stood for, empty where that has happened before. */
  Resource Take();

 protected:
  using Member = napi_property_descriptor;
  using Static = Napi::Value (*)(const Napi::CallbackInfo& info);

  Object(const Napi::CallbackInfo& info, const ObjectClass& object_class);

  static Napi::FunctionReference DefineClass(Napi::Env env, const ObjectClass& object_class,
                                             const std::vector<Member>& members);
  static Member DefineMethod(const char* name, const MethodOf& method);
  static Member DefineStatic(const char* name, Static call);
  /** An object of the class that stands for `resource`. */
  static Napi::Object Adopt(Napi::Env env, const Napi::FunctionReference& constructor, Resource resource);
  /** The object behind a value, or a TypeError: the tag tells it from every other object. */
  static Object& From(Napi::Env env, napi_value value, const ObjectClass& object_class);

 private:
  static napi_value Construct(napi_env env, napi_callback_info info);
  static napi_value CallMethod(napi_env env, napi_callback_info info);
  static napi_value CallStatic(napi_env env, napi_callback_info info);

  const napi_type_tag& tag_;
  const std::shared_ptr<Handles> handles_;
  uint32_t id_;
  bool closed_ = false;
};

/** The same for one class: `T` has a static `kTag`, `kName` and `Class(Addon&)`; `R` is what it stands for.
 */
template <typename T, typename R>
class ObjectOf : public Object {
 public:
  using Owned = R;

  explicit ObjectOf(const Napi::CallbackInfo& info) : Object(info, kClass) {}

  static Napi::Object Adopt(Napi::Env env, std::shared_ptr<const R> owned) {
    return Object::Adopt(env, T::Class(*env.GetInstanceData<Addon>()), std::move(owned));
  }

  static T& From(Napi::Env env, napi_value value) {
    return static_cast<T&>(Object::From(env, value, kClass));
  }

  std::shared_ptr<const R> owned() const { return std::static_pointer_cast<const R>(resource()); }

 protected:
  static Napi::FunctionReference DefineClass(Napi::Env env, const std::vector<Member>& members) {
    return Object::DefineClass(env, kClass, members);
  }

  /** A method whose C++ exceptions arrive as errors of lib/errors.ts. */
  template <auto method>
  static Member DefineMethod(const char* name) {
    static constexpr MethodOf kMethod{&kClass, [](Object& self, const Napi::CallbackInfo& info) {
                                        return (static_cast<T&>(self).*method)(info);
                                      }};
    return Object::DefineMethod(name, kMethod);
  }

  template <Static call>
  static Member DefineStatic(const char* name) {
    return Object::DefineStatic(name, call);
  }

  static Object* Make(const Napi::CallbackInfo& info) { return new T(info); }

  static constexpr ObjectClass kClass{T::kName, &T::kTag, &ObjectOf::Make};
};

}  // namespace vfio
