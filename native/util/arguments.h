#pragma once

#include <napi.h>

#include <cstdint>
#include <string>

namespace vfio {

/** Throws a TypeError with code ERR_VFIO_BAD_ARGUMENT. */
[[noreturn]] void BadArgument(Napi::Env env, const std::string& message);

uint32_t Uint32Argument(Napi::Env env, napi_value value, const char* name);
/** A number that TypeScript has checked to be such an integer: no floating point, for calls that are made
 * often. */
uint32_t CheckedUint32(Napi::Env env, napi_value value, const char* name);
/** Text without NUL, which the kernel would cut short. */
std::string TextArgument(Napi::Env env, napi_value value, const char* name);

/** An ArrayBuffer of the caller. Its bytes stay where they are until JavaScript runs again. */
struct Buffer {
  napi_value value;
  void* data;
  size_t size;
};

Buffer BufferArgument(Napi::Env env, napi_value value, const char* name);

// The same of a callback's argument by its place.
inline uint32_t Uint32Argument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  return Uint32Argument(info.Env(), info[index], name);
}
inline std::string TextArgument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  return TextArgument(info.Env(), info[index], name);
}
inline Buffer BufferArgument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  return BufferArgument(info.Env(), info[index], name);
}

}  // namespace vfio
