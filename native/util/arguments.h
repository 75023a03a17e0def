#pragma once

#include <napi.h>

#include <cstdint>
#include <string>

#include "util/inline.h"

namespace vfio {

/** Throws a TypeError with code ERR_VFIO_BAD_ARGUMENT. */
[[noreturn]] void BadArgument(Napi::Env env, const std::string& message);

uint32_t Uint32Argument(Napi::Env env, napi_value value, const char* name);
[[noreturn]] void NoNumber(Napi::Env env, const char* name);
[[noreturn]] void NoSize(Napi::Env env, const char* name);
[[noreturn]] void NoUint64(Napi::Env env, const char* name);

/** A number that TypeScript has checked to be such an integer: no floating point, for calls that are made
 * often. */
VFIO_INLINE uint32_t CheckedUint32(napi_env env, napi_value value, const char* name) {
  uint32_t number;
  if (napi_get_value_uint32(env, value, &number) == napi_ok) return number;
  NoNumber(env, name);
}

/**
 * The same for one from -2⁶³ to 2⁶³ - 1, though of a number only those below 2⁵³ are exact. As a double, because
 * napi_get_value_int64() takes three times as long for what is no small integer.
 */
VFIO_INLINE int64_t CheckedInt64(napi_env env, napi_value value, const char* name) {
  double number;
  if (napi_get_value_double(env, value, &number) == napi_ok && number >= -0x1p63 && number < 0x1p63)
    return static_cast<int64_t>(number);
  NoNumber(env, name);
}

/** The same for a size: a negative one would be nearly all of an address space to the kernel. */
VFIO_INLINE uint64_t CheckedSize(napi_env env, napi_value value, const char* name) {
  const int64_t size = CheckedInt64(env, value, name);
  if (size < 0) NoSize(env, name);
  return static_cast<uint64_t>(size);
}

/** An unsigned bigint of 64 bits. */
VFIO_INLINE uint64_t CheckedUint64(napi_env env, napi_value value, const char* name) {
  uint64_t number;
  bool lossless;
  if (napi_get_value_bigint_uint64(env, value, &number, &lossless) == napi_ok && lossless) return number;
  NoUint64(env, name);
}

/** A register's value: a number, or a bigint where it has 64 bits. */
template <typename T>
VFIO_INLINE T CheckedWord(napi_env env, napi_value value, const char* name) {
  if constexpr (sizeof(T) == sizeof(uint64_t)) {
    return CheckedUint64(env, value, name);
  } else {
    return static_cast<T>(CheckedUint32(env, value, name));
  }
}
/** For answers: exact below 2⁵³. */
VFIO_INLINE napi_value ToNumber(napi_env env, uint64_t number) {
  napi_value value;
  NAPI_THROW_IF_FAILED(env,
                       number <= INT32_MAX ? napi_create_int32(env, static_cast<int32_t>(number), &value)
                                           : napi_create_double(env, static_cast<double>(number), &value),
                       nullptr);
  return value;
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

// The same of a callback's argument by its place; these three are compiled once, for calls that are not made often.
uint32_t CheckedUint32(const Napi::CallbackInfo& info, size_t index, const char* name);
int64_t CheckedInt64(const Napi::CallbackInfo& info, size_t index, const char* name);
uint64_t CheckedUint64(const Napi::CallbackInfo& info, size_t index, const char* name);
inline uint32_t Uint32Argument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  return Uint32Argument(info.Env(), info[index], name);
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
