#include "util/arguments.h"

#include <limits>

namespace vfio {

void BadArgument(Napi::Env env, const std::string& message) {
  Napi::TypeError error = Napi::TypeError::New(env, message);
  error.Set("code", Napi::String::New(env, "ERR_VFIO_BAD_ARGUMENT"));
  throw error;
}

uint32_t Uint32Argument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  const Napi::Value value = info[index];
  if (value.IsNumber()) {
    const double number = value.As<Napi::Number>().DoubleValue();
    // False for NaN too, and only then is the cast defined.
    if (number >= 0 && number <= std::numeric_limits<uint32_t>::max()) {
      const uint32_t integer = static_cast<uint32_t>(number);
      if (integer == number) return integer;
    }
  }
  BadArgument(info.Env(), std::string(name) + " must be an integer from 0 to 4294967295");
}

std::string TextArgument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  const Napi::Value value = info[index];
  if (value.IsString()) {
    std::string text = value.As<Napi::String>().Utf8Value();
    if (!text.empty() && text.find('\0') == std::string::npos) return text;
  }
  BadArgument(info.Env(), std::string(name) + " must be text that is not empty and has no NUL");
}

Napi::ArrayBuffer BufferArgument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  const Napi::Value value = info[index];
  if (!value.IsArrayBuffer()) BadArgument(info.Env(), std::string(name) + " must be an ArrayBuffer");
  return value.As<Napi::ArrayBuffer>();
}

}  // namespace vfio
