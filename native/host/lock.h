#pragma once

#include <napi.h>

namespace vfio {

// tryLock(descriptor) -> whether this process now has the lock: flock(2), exclusive, without waiting.
Napi::Value TryLock(const Napi::CallbackInfo& info);
// tryLockByte(descriptor, offset) -> the same for one byte: F_OFD_SETLK of fcntl(2), for writing.
Napi::Value TryLockByte(const Napi::CallbackInfo& info);

}  // namespace vfio
