#include "fd.h"

#include <fcntl.h>

#include <cerrno>

namespace vfio {

SharedFd OpenFile(const std::string& path, const char* request) {
  const int number = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (number < 0) throw SystemFailure(errno, "open", request, path);
  return std::make_shared<const Fd>(number, path);
}

const SharedFd& OpenIn(const SharedFd& slot) {
  if (!slot) throw Refusal("ERR_VFIO_CLOSED", "this object is closed");
  return slot;
}

void DefineQuickFunction(Napi::Object self, const char* name, const Slot& slot, napi_callback callback) {
  const Napi::Env env = self.Env();
  // The function has the slot for its own: a program may keep it longer than the object.
  auto own = std::make_unique<Slot>(slot);
  napi_value function;
  NAPI_THROW_IF_FAILED_VOID(
      env, napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, own.get(), &function));
  Napi::Object(env, function).AddFinalizer([](Napi::Env, Slot* own) { delete own; }, own.get());
  own.release();
  self.Set(name, Napi::Value(env, function));
}

}  // namespace vfio
