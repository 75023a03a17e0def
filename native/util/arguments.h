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
/** The same for one from -2⁶³ to 2⁶³ - 1, though of a number only those below 2⁵³ are exact. */
int64_t CheckedInt64(Napi::Env env, napi_value value, const char* name);
/** An unsigned bigint of 64 bits. */
uint64_t CheckedUint64(Napi::Env env, napi_value value, const char* name);
/** A register's value: a number, or a bigint where it has 64 bits. */
template <typename T>
T CheckedWord(Napi::Env env, napi_value value, const char* name) {
  if constexpr (sizeof(T) == sizeof(uint64_t)) {
    return CheckedUint64(env, value, name);
  } else {
    return static_cast<T>(CheckedUint32(env, value, name));
  }
}
/** The number of a descriptor of the caller: the kernel says whether it is open. */
int DescriptorArgument(Napi::Env env, napi_value value, const char* name);
/** Text without NUL, which the kernel would cut short. */
std::string TextArgument(Napi::Env env, napi_value value, const char* name);

/** An ArrayBuffer of the caller. Its bytes stay where they are until JavaScript runs again. */
struct Buffer {
  napi_value value;
  void* data;
  size_t size;
};

Buffer BufferArgument(Napi::Env env, napi_value value, const char* name);
/** The bytes of a typed array or DataView. */
Buffer ViewArgument(Napi::Env env, napi_value value, const char* name);

// The same of a callback's argument by its place.
inline uint32_t Uint32Argument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  return Uint32Argument(info.Env(), info[index], name);
}
inline uint64_t CheckedUint64(const Napi::CallbackInfo& info, size_t index, const char* name) {
  return CheckedUint64(info.Env(), info[index], name);
}
inline int DescriptorArgument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  return DescriptorArgument(info.Env(), info[index], name);
}
inline std::string TextArgument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  return TextArgument(info.Env(), info[index], name);
}
inline Buffer BufferArgument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  return BufferArgument(info.Env(), info[index], name);
}

}  // namespace vfio
