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

/** An object that stands for a descriptor, and closes. */
template <typename T>
class FdObject : public Object<T, Fd> {
 public:
  using Object<T, Fd>::Object;

  /** The open descriptor, or ERR_VFIO_CLOSED. */
  SharedFd fd() const { return this->owned(); }

 protected:
  static Napi::FunctionReference DefineFdClass(Napi::Env env,
                                               std::vector<typename FdObject::PropertyDescriptor> members) {
    members.push_back(FdObject::InstanceMethod("close", &FdObject::Close));
    members.push_back(FdObject::InstanceMethod("closeNow", &FdObject::CloseNow));
    members.push_back(FdObject::template DefineMethod<&FdObject::Offered>("offer"));
    members.push_back(FdObject::template DefineStatic<&FdObject::Accepted>("accept"));
    return Napi::Persistent(Napi::ObjectWrap<T>::DefineClass(env, T::kName, members));
  }

 private:
  // The last close of a device resets it, which takes long.
  Napi::Value Close(const Napi::CallbackInfo& info) {
    return Work::Start(info.Env(), "vfio:close", [fd = this->Take()] {});
  }

  // For another thread; here it is closed from now on.
  Napi::Value Offered(const Napi::CallbackInfo& info) {
    SharedFd mine = fd();
    this->Take();
    return Napi::Number::New(info.Env(), Offer(T::kTag, std::move(mine)));
  }

  static Napi::Value Accepted(const Napi::CallbackInfo& info) {
    double number;
    if (napi_get_value_double(info.Env(), info[0], &number) != napi_ok) number = 0;
    SharedFd given = Accept(T::kTag, number);
    if (!given)
      throw Refusal("ERR_VFIO_BAD_ARGUMENT", "nothing of this kind was handed over, or it was taken already");
    return FdObject::Adopt(info.Env(), std::move(given));
  }

  Napi::Value CloseNow(const Napi::CallbackInfo& info) {
    this->Take().reset();
    return info.Env().Undefined();
  }
};

}  // namespace vfio
