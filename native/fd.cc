#include "fd.h"

#include <fcntl.h>

#include <cerrno>

namespace vfio {

SharedFd OpenFile(const std::string& path, const char* request) {
  const int number = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (number < 0) throw SystemFailure(errno, "open", request, path);
  return std::make_shared<const Fd>(number, path);
}

Napi::Value CloseLater(Napi::Env env, Resource resource) {
  return Work::Start(env, "vfio:close", [resource = std::move(resource)] {});
}

}  // namespace vfio
