#pragma once

#include <napi.h>

#include <string>
#include <vector>

namespace vfio {

// An array of names as lib/sysfs/bytes.ts writes them, in the bytes that they stand for.
std::vector<std::string> Strings(const Napi::Value& value);
// readTree(root, directories, files, limits, links, lists, nodes, spaces, bodies) -> () -> { data, spans }
Napi::Value ReadTree(const Napi::CallbackInfo& info);

}  // namespace vfio
