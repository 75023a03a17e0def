#include "util/failure.h"

#include <cerrno>
#include <cstring>

#include "util/ioctl.h"

namespace vfio {

Napi::Error ToError(Napi::Env env) {
  try {
    throw;
  } catch (const Napi::Error& error) {
    return error;
  } catch (const SystemFailure& failure) {
    Napi::Error error =
        Napi::Error::New(env, std::string(failure.request) + ": " + std::strerror(failure.error));
    error.Set("errno", Napi::Number::New(env, failure.error));
    error.Set("syscall", Napi::String::New(env, failure.syscall));
    error.Set("request", Napi::String::New(env, failure.request));
    error.Set("path", Napi::String::New(env, failure.path));
    return error;
  } catch (const Refusal& refusal) {
    Napi::Error error = Napi::Error::New(env, refusal.what());
    error.Set("code", Napi::String::New(env, refusal.code));
    return error;
  } catch (const std::exception& exception) {
    return Napi::Error::New(env, exception.what());
  }
}

void IoctlFailed(const Fd& fd, const char* name) {
  throw SystemFailure(errno, "ioctl", name, fd.path());
}

napi_value Throw(napi_env env) {
  return Napi::details::WrapCallback(env, [&]() -> napi_value { throw ToError(env); });
}

}  // namespace vfio
