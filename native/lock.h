#pragma once

#include <napi.h>

namespace vfio {

// tryLock(descriptor) -> whether this process now has the lock: flock(2), exclusive, without waiting.
Napi::Value TryLock(const Napi::CallbackInfo& info);

// waitForLock(descriptor) -> a promise: the same off the main thread, for as long as it takes.
Napi::Value WaitForLock(const Napi::CallbackInfo& info);

}  // namespace vfio
