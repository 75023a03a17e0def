#pragma once

#include <napi.h>

#include <string>
#include <utility>
#include <vector>

#include "object.h"
#include "offers.h"
#include "util/fd.h"
#include "util/work.h"

namespace vfio {

/** Opens a file for reading and writing; `request` says in errors what it is. */
SharedFd OpenFile(const std::string& path, const char* request);

/** A promise for the end of its close: the last one of a device resets it, which takes long. */
Napi::Value CloseLater(Napi::Env env, Resource resource);

/** What was offered by the number that is the first argument, or ERR_VFIO_BAD_ARGUMENT. */
SharedFd AcceptArgument(const Napi::CallbackInfo& info, const napi_type_tag& kind);

/** An object that stands for a descriptor, and closes. */
template <typename T>
class FdObject : public ObjectOf<T, Fd> {
 public:
  using ObjectOf<T, Fd>::ObjectOf;

  /** The open descriptor, or ERR_VFIO_CLOSED. */
  SharedFd fd() const { return this->owned(); }

 protected:
  static Napi::FunctionReference DefineFdClass(Napi::Env env, std::vector<napi_property_descriptor> members) {
    members.push_back(FdObject::template DefineMethod<&FdObject::Close>("close"));
    members.push_back(FdObject::template DefineMethod<&FdObject::CloseNow>("closeNow"));
    members.push_back(FdObject::template DefineMethod<&FdObject::Offered>("offer"));
    members.push_back(FdObject::template DefineStatic<&FdObject::Accepted>("accept"));
    return FdObject::DefineClass(env, members);
  }

 private:
  Napi::Value Close(const Napi::CallbackInfo& info) { return CloseLater(info.Env(), this->Take()); }

  Napi::Value CloseNow(const Napi::CallbackInfo& info) {
    this->Take().reset();
    return info.Env().Undefined();
  }

  // For another thread; here it is closed from now on.
  Napi::Value Offered(const Napi::CallbackInfo& info) {
    const double offer = Offer(T::kTag, fd());
    this->Take();
    return Napi::Number::New(info.Env(), offer);
  }

  static Napi::Value Accepted(const Napi::CallbackInfo& info) {
    return FdObject::Adopt(info.Env(), AcceptArgument(info, T::kTag));
  }
};

}  // namespace vfio
