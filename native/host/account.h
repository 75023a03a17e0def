#pragma once

#include <napi.h>

namespace vfio {

// findUser(name) -> Promise<{ uid, gid } | null>: getpwnam_r(3).
Napi::Value FindUser(const Napi::CallbackInfo& info);

// findGroup(name) -> Promise<gid | null>: getgrnam_r(3).
Napi::Value FindGroup(const Napi::CallbackInfo& info);

}  // namespace vfio
