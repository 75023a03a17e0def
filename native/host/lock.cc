#include "host/lock.h"

#include <errno.h>
#include <fcntl.h>
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

Napi::Value TryLockByte(const Napi::CallbackInfo& info) {
  const int descriptor = DescriptorArgument(info, 0, "descriptor");
  struct flock range {};
  range.l_type = F_WRLCK;
  range.l_whence = SEEK_SET;
  range.l_start = CheckedInt64(info, 1, "offset");
  range.l_len = 1;
  if (fcntl(descriptor, F_OFD_SETLK, &range) == 0) return Napi::Boolean::New(info.Env(), true);
  if (errno == EAGAIN || errno == EACCES) return Napi::Boolean::New(info.Env(), false);
  try {
    throw SystemFailure(errno, "fcntl", "lock", "");
  } catch (...) {
    throw ToError(info.Env());
  }
}

}  // namespace vfio
