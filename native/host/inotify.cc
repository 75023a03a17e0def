#include <sys/inotify.h>

#include <cerrno>

#include "host/messages.h"
#include "util/arguments.h"
#include "util/failure.h"

namespace vfio {

Napi::Value Messages::OpenInotify(const Napi::CallbackInfo& info) {
  const int number = ::inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (number < 0) throw SystemFailure(errno, "inotify_init1", "inotify", "inotify");
  return Adopt(info.Env(), std::make_shared<const Fd>(number, "inotify"));
}

Napi::Value Messages::AddPath(const Napi::CallbackInfo& info) {
  const std::string path = TextArgument(info, 0, "path");
  const uint32_t events = Uint32Argument(info, 1, "events");
  const int watched = ::inotify_add_watch(fd()->number(), path.c_str(), events);
  if (watched < 0) throw SystemFailure(errno, "inotify_add_watch", "inotify", path);
  return Napi::Number::New(info.Env(), watched);
}

}  // namespace vfio
