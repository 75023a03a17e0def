#pragma once

#include <napi.h>

#include <stdexcept>
#include <string>

namespace vfio {

/** A system call that failed. Pure C++, so that it can be made off the main thread. */
struct SystemFailure : std::exception {
  SystemFailure(int error, const char* syscall, const char* request, std::string path)
      : error(error), syscall(syscall), request(request), path(std::move(path)) {}
  const char* what() const noexcept override { return request; }

  int error;
  const char* syscall;
  const char* request;
  std::string path;
};

/** Any other refusal, with the code that lib/errors.ts knows. */
struct Refusal : std::runtime_error {
  Refusal(const char* code, const std::string& message) : std::runtime_error(message), code(code) {}

  const char* code;
};

/** The exception in flight as a JavaScript error. Call it in a catch block. */
Napi::Error ToError(Napi::Env env);

/** The same thrown in JavaScript: what a callback returns from its catch block. */
napi_value Throw(napi_env env);

}  // namespace vfio
