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

/** A promise for the end of its close: the last one of a device resets it, which takes long. */
Napi::Value CloseLater(Napi::Env env, Resource resource);

/** An object that stands for a descriptor, and closes. */
template <typename T>
class FdObject : public ObjectOf<T, Fd> {
 public:
  using ObjectOf<T, Fd>::ObjectOf;

  /** The open descriptor, or ERR_VFIO_CLOSED. */
  SharedFd fd() const { return this->owned(); }

  /** Leaves the object closed, and the descriptor to the caller. */
  Resource Give() { return this->Take(); }

 protected:
  static Napi::FunctionReference DefineFdClass(Napi::Env env, std::vector<napi_property_descriptor> members) {
    members.push_back(FdObject::template DefineMethod<&FdObject::Close>("close"));
    members.push_back(FdObject::template DefineMethod<&FdObject::CloseNow>("closeNow"));
    return FdObject::DefineClass(env, members);
  }

  /** A method that is one ioctl. */
  template <const Command& command>
  static napi_property_descriptor DefineCommand(const char* name) {
    static constexpr CommandMethod kMethod{{&FdObject::kClass, CallCommand}, &command};
    return Object::DefineMethod(name, kMethod);
  }

 private:
  Napi::Value Close(const Napi::CallbackInfo& info) { return CloseLater(info.Env(), this->Take()); }

  Napi::Value CloseNow(const Napi::CallbackInfo& info) {
    this->Take().reset();
    return info.Env().Undefined();
  }
};

}  // namespace vfio
