#pragma once

#include <napi.h>

#include <cstdint>
#include <string>

namespace vfio {

/** Throws a TypeError with code ERR_VFIO_BAD_ARGUMENT. */
[[noreturn]] void BadArgument(Napi::Env env, const std::string& message);

uint32_t Uint32Argument(const Napi::CallbackInfo& info, size_t index, const char* name);
/** Text without NUL, which the kernel would cut short. */
std::string TextArgument(const Napi::CallbackInfo& info, size_t index, const char* name);
Napi::ArrayBuffer BufferArgument(const Napi::CallbackInfo& info, size_t index, const char* name);

}  // namespace vfio
