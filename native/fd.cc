#include "fd.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

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

Napi::Value NumberOf(Object& self, const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<const Fd*>(self.resource().get())->number());
}

SharedFd Duplicate(const Napi::CallbackInfo& info, const char* request) {
  const int given = DescriptorArgument(info, 0, "descriptor");
  const std::string path = "descriptor " + std::to_string(given);
  const int number = ::fcntl(given, F_DUPFD_CLOEXEC, 0);
  if (number < 0) throw SystemFailure(errno, "fcntl", request, path);
  return std::make_shared<const Fd>(number, path);
}

Napi::Value Describe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  try {
    const int given = DescriptorArgument(info, 0, "descriptor");
    struct stat facts;
    if (::fstat(given, &facts) != 0)
      throw SystemFailure(errno, "fstat", "descriptor", "descriptor " + std::to_string(given));
    char name[PATH_MAX];
    // Without /proc it has none.
    const ssize_t length =
        ::readlink(("/proc/self/fd/" + std::to_string(given)).c_str(), name, sizeof name);
    Napi::Object answer = Napi::Object::New(env);
    answer.Set("isCharacter", Napi::Boolean::New(env, S_ISCHR(facts.st_mode)));
    answer.Set("major", Napi::Number::New(env, major(facts.st_rdev)));
    answer.Set("minor", Napi::Number::New(env, minor(facts.st_rdev)));
    answer.Set("name", Napi::Buffer<char>::Copy(env, name, length < 0 ? 0 : static_cast<size_t>(length)));
    return answer;
  } catch (...) {
    throw ToError(env);
  }
}

Napi::Value CloseNow(Object& self, const Napi::CallbackInfo& info) {
  self.Take().reset();
  return info.Env().Undefined();
}

}  // namespace vfio
