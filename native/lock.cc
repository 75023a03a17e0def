#include "lock.h"

#include <errno.h>
#include <sys/file.h>

#include "util/arguments.h"
#include "util/failure.h"

namespace vfio {

Napi::Value TryLock(const Napi::CallbackInfo& info) {
  uint32_t descriptor = Uint32Argument(info, 0, "descriptor");
  if (flock(static_cast<int>(descriptor), LOCK_EX | LOCK_NB) == 0)
    return Napi::Boolean::New(info.Env(), true);
  if (errno == EWOULDBLOCK) return Napi::Boolean::New(info.Env(), false);
  try {
    throw SystemFailure(errno, "flock", "lock", "");
  } catch (...) {
    throw ToError(info.Env());
  }
}

}  // namespace vfio
