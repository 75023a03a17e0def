#pragma once

#include <sys/ioctl.h>

#include <cstdint>

#include "util/failure.h"
#include "util/fd.h"
#include "util/inline.h"

namespace vfio {

/** An ioctl and the name that errors give it. */
struct Request {
  unsigned long number;
  const char* name;
};

#define VFIO_REQUEST(name) \
  ::vfio::Request {        \
    name, #name            \
  }

/** How a structure of the kernel names memory. */
inline uint64_t AddressOf(const void* memory) {
  return reinterpret_cast<uintptr_t>(memory);
}

[[noreturn]] void IoctlFailed(const Fd& fd, const char* name);

/** One ioctl: what it returned, or a SystemFailure. */
VFIO_INLINE int Ioctl(const Fd& fd, const Request& request, const void* argument) {
  const int answer = ::ioctl(fd.number(), request.number, argument);
  if (answer < 0) IoctlFailed(fd, request.name);
  return answer;
}

/** The same for one that takes a number, or nothing. */
inline int Ioctl(const Fd& fd, const Request& request, unsigned long argument = 0) {
  return Ioctl(fd, request, reinterpret_cast<const void*>(argument));
}

}  // namespace vfio
