#pragma once

#include <napi.h>

namespace vfio {

// findHead(text, from, tabs) -> where the newline before the line is, or -1
Napi::Value FindHead(const Napi::CallbackInfo& info);

}  // namespace vfio
