#include "event-fd.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

namespace vfio {

Napi::FunctionReference EventFd::Define(Napi::Env env) {
  return DefineFdClass(env, {
                                DefineStatic<&EventFd::Create>("create"),
                                DefineMethod<&EventFd::Signal>("signal"),
                                DefineMethod<&EventFd::Read>("read"),
                            });
}

Napi::Value EventFd::Create(const Napi::CallbackInfo& info) {
  const int number = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (number < 0) throw SystemFailure(errno, "eventfd", "eventfd", "eventfd");
  return Adopt(info.Env(), std::make_shared<const Fd>(number, "eventfd"));
}

Napi::Value EventFd::Signal(const Napi::CallbackInfo& info) {
  const uint64_t count = CheckedSize(info.Env(), info[0], "count");
  if (::write(fd()->number(), &count, sizeof count) < 0)
    throw SystemFailure(errno, "write", "eventfd", "eventfd");
  return info.Env().Undefined();
}

Napi::Value EventFd::Read(const Napi::CallbackInfo& info) {
  uint64_t count = 0;
  if (::read(fd()->number(), &count, sizeof count) < 0 && errno != EAGAIN)
    throw SystemFailure(errno, "read", "eventfd", "eventfd");
  return Napi::Number::New(info.Env(), static_cast<double>(count));
}

}  // namespace vfio
