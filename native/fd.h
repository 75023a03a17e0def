#pragma once

#include <napi.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "command.h"
#include "object.h"
#include "util/fd.h"
#include "util/work.h"

namespace vfio {

/** Opens a file for reading and writing; `request` says in errors what it is. */
SharedFd OpenFile(const std::string& path, const char* request);

/** A promise for what `adopt` makes of a file that is opened off the main thread. */
Napi::Value OpenLater(Napi::Env env, const char* name, std::function<SharedFd()>&& open,
                      Napi::Object (*adopt)(Napi::Env env, SharedFd fd));

// Methods of all that stand for a descriptor. The first is a promise for the end: the last close of a device resets it, which
// takes long.
Napi::Value CloseLater(Object& self, const Napi::CallbackInfo& info);
Napi::Value CloseNow(Object& self, const Napi::CallbackInfo& info);
Napi::Value NumberOf(Object& self, const Napi::CallbackInfo& info);

/** A descriptor of the caller's, duplicated: `request` says in errors what for. */
SharedFd Duplicate(const Napi::CallbackInfo& info, const char* request);

// describe(descriptor) -> { isCharacter, major, minor, name }
Napi::Value Describe(const Napi::CallbackInfo& info);

/** An object that stands for a descriptor, and closes. */
template <typename T>
class FdObject : public ObjectOf<T, Fd> {
 public:
  using ObjectOf<T, Fd>::ObjectOf;

  /** The open descriptor, or ERR_VFIO_CLOSED. */
  SharedFd fd() const { return this->owned(); }

 protected:
  static Napi::FunctionReference DefineFdClass(Napi::Env env, std::vector<napi_property_descriptor> members) {
    static constexpr Object::MethodOf kClose{&FdObject::kClass, CloseLater};
    static constexpr Object::MethodOf kCloseNow{&FdObject::kClass, CloseNow};
    static constexpr Object::MethodOf kNumber{&FdObject::kClass, NumberOf};
    members.push_back(Object::DefineMethod("close", kClose));
    members.push_back(Object::DefineMethod("closeNow", kCloseNow));
    members.push_back(Object::DefineMethod("number", kNumber));
    return FdObject::DefineClass(env, members);
  }

  /** The same file by a descriptor of the caller's. */
  static Napi::Value FromDescriptor(const Napi::CallbackInfo& info) {
    return FdObject::Adopt(info.Env(), Duplicate(info, "descriptor"));
  }

  /** A method that is one ioctl. */
  template <const Command& command>
  static napi_property_descriptor DefineCommand(const char* name) {
    static_assert(command.size <= Command::kMostBytes && command.arguments() <= kMostArguments);
    static constexpr CommandMethod kMethod{{&FdObject::kClass, CallCommand}, &command};
    return Object::DefineMethod(name, kMethod);
  }
};

}  // namespace vfio
