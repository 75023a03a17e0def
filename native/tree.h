#pragma once

#include <napi.h>

namespace vfio {

// readTree(root, directories, files, limits, links, lists) -> { data, spans }
Napi::Value ReadTree(const Napi::CallbackInfo& info);

}  // namespace vfio
