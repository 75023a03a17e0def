#pragma once

#include <napi.h>

#include <string>

namespace vfio {

// A path as lib/sysfs/bytes.ts writes it, in the bytes that it stands for.
std::string Bytes(const Napi::String& text);
// readTree(root, directories, files, limits, links, lists) -> { data, spans }
Napi::Value ReadTree(const Napi::CallbackInfo& info);

}  // namespace vfio
