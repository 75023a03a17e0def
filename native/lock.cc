#include "lock.h"

#include <errno.h>
#include <sys/file.h>

#include "util/arguments.h"
#include "util/failure.h"
#include "util/work.h"

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

Napi::Value WaitForLock(const Napi::CallbackInfo& info) {
  const int descriptor = static_cast<int>(Uint32Argument(info, 0, "descriptor"));
  return Work::Start(info.Env(), "vfio:lock", [descriptor] {
    while (flock(descriptor, LOCK_EX) != 0) {
      if (errno != EINTR) throw SystemFailure(errno, "flock", "lock", "");
    }
  });
}

}  // namespace vfio
