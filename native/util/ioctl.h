#pragma once

#include <sys/ioctl.h>

#include <cerrno>

#include "util/failure.h"
#include "util/fd.h"

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

/** One ioctl: what it returned, or a SystemFailure. */
template <typename Argument>
int Ioctl(const Fd& fd, const Request& request, Argument argument) {
  const int answer = ::ioctl(fd.number(), request.number, argument);
  if (answer < 0) throw SystemFailure(errno, "ioctl", request.name, fd.path());
  return answer;
}

inline int Ioctl(const Fd& fd, const Request& request) {
  return Ioctl(fd, request, 0UL);
}

}  // namespace vfio
