#include "util/arguments.h"

#include <limits>

namespace vfio {

void BadArgument(Napi::Env env, const std::string& message) {
  Napi::TypeError error = Napi::TypeError::New(env, message);
  error.Set("code", Napi::String::New(env, "ERR_VFIO_BAD_ARGUMENT"));
  throw error;
}

uint32_t Uint32Argument(Napi::Env env, napi_value value, const char* name) {
  double number;
  // The comparisons are false for NaN too, and only where they hold the cast is defined.
  if (napi_get_value_double(env, value, &number) == napi_ok && number >= 0 &&
      number <= std::numeric_limits<uint32_t>::max()) {
    const uint32_t integer = static_cast<uint32_t>(number);
    if (integer == number) return integer;
  }
  BadArgument(env, std::string(name) + " must be an integer from 0 to 4294967295");
}

void NoNumber(Napi::Env env, const char* name) {
  BadArgument(env, std::string(name) + " must be a number");
}

void NoSize(Napi::Env env, const char* name) {
  BadArgument(env, std::string(name) + " must be a number from 0 to 2^63 - 1");
}

void NoUint64(Napi::Env env, const char* name) {
  BadArgument(env, std::string(name) + " must be a bigint from 0 to 2^64 - 1");
}

uint32_t CheckedUint32(const Napi::CallbackInfo& info, size_t index, const char* name) {
  return CheckedUint32(info.Env(), info[index], name);
}

int64_t CheckedInt64(const Napi::CallbackInfo& info, size_t index, const char* name) {
  return CheckedInt64(info.Env(), info[index], name);
}

uint64_t CheckedUint64(const Napi::CallbackInfo& info, size_t index, const char* name) {
  return CheckedUint64(info.Env(), info[index], name);
}

int DescriptorArgument(Napi::Env env, napi_value value, const char* name) {
  const uint32_t number = Uint32Argument(env, value, name);
  if (number <= static_cast<uint32_t>(std::numeric_limits<int32_t>::max())) return static_cast<int>(number);
  BadArgument(env, std::string(name) + " must be a descriptor, an integer from 0 to 2147483647");
}

std::string TextArgument(Napi::Env env, napi_value value, const char* name) {
  const Napi::Value text(env, value);
  if (text.IsString()) {
    std::string bytes = text.As<Napi::String>().Utf8Value();
    if (!bytes.empty() && bytes.find('\0') == std::string::npos) return bytes;
  }
  BadArgument(env, std::string(name) + " must be text that is not empty and has no NUL");
}

Buffer BufferArgument(Napi::Env env, napi_value value, const char* name) {
  Buffer buffer{value, nullptr, 0};
  if (napi_get_arraybuffer_info(env, value, &buffer.data, &buffer.size) != napi_ok) {
    BadArgument(env, std::string(name) + " must be an ArrayBuffer");
  }
  return buffer;
}

Buffer ViewArgument(Napi::Env env, napi_value value, const char* name) {
  Buffer buffer{value, nullptr, 0};
  napi_typedarray_type type;
  size_t length;
  if (napi_get_typedarray_info(env, value, &type, &length, &buffer.data, nullptr, nullptr) == napi_ok) {
    buffer.size = length * Napi::TypedArray(env, value).ElementSize();
    return buffer;
  }
  if (napi_get_dataview_info(env, value, &buffer.size, &buffer.data, nullptr, nullptr) == napi_ok)
    return buffer;
  BadArgument(env, std::string(name) + " must be a typed array or DataView");
}

}  // namespace vfio
