#include "fd.h"

#include <fcntl.h>

#include <cerrno>

namespace vfio {

SharedFd OpenFile(const std::string& path, const char* request) {
  const int number = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (number < 0) throw SystemFailure(errno, "open", request, path);
  return std::make_shared<const Fd>(number, path);
}

Napi::Value OpenLater(Napi::Env env, const char* name, std::function<SharedFd()>&& open,
                      Napi::Object (*adopt)(Napi::Env env, SharedFd fd)) {
  const auto opened = std::make_shared<SharedFd>();
  return Work::Start(
      env, name, [open = std::move(open), opened] { *opened = open(); },
      // A copy: where there is no environment any more, the last reference goes on a thread.
      [opened, adopt](Napi::Env env) { return adopt(env, *opened); });
}

Napi::Value CloseLater(Object& self, const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  try {
    return Work::Start(env, "vfio:close", [resource = self.Take()] {});
  } catch (const SystemFailure&) {
    // No thread was to be had, so that it was closed on this one.
    const Napi::Promise::Deferred deferred = Napi::Promise::Deferred::New(env);
    deferred.Resolve(env.Undefined());
    return deferred.Promise();
  }
}

Napi::Value CloseNow(Object& self, const Napi::CallbackInfo& info) {
  self.Take().reset();
  return info.Env().Undefined();
}

}  // namespace vfio
