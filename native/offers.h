#pragma once

#include <napi.h>

#include "util/fd.h"

namespace vfio {

/**
 * Descriptors on their way from one thread of this process to another. Each is known by a number that is used
 * once, and stays open until it is accepted.
 */
double Offer(const napi_type_tag& kind, SharedFd fd);

/** Empty where there is no such offer of this kind. */
SharedFd Accept(const napi_type_tag& kind, double number);

}  // namespace vfio
