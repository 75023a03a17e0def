#pragma once

#include <napi.h>

namespace vfio {

// readTree(root, directories, files, links, lists, limit) -> { data, spans }
Napi::Value ReadTree(const Napi::CallbackInfo& info);

}  // namespace vfio
