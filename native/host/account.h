#pragma once

#include <napi.h>

namespace vfio {

// findUser(name or number) -> Promise<{ uid, gid, name, home, groups } | null>: getpwnam_r(3), getpwuid_r, getgrouplist.
Napi::Value FindUser(const Napi::CallbackInfo& info);

// findGroup(name) -> Promise<gid | null>: getgrnam_r(3).
Napi::Value FindGroup(const Napi::CallbackInfo& info);

}  // namespace vfio
