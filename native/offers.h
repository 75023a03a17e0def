#pragma once

#include <napi.h>

namespace vfio {

/**
 * Open objects on their way from one thread of this process to another: a device with what it needs. All of them go and
 * come together. An offer stays open until it is accepted.
 */
// offer(...objects) -> the number to accept them by; they are closed here from then on.
Napi::Value Offer(const Napi::CallbackInfo& info);
// accept(number) -> [...objects] in the same order, once.
Napi::Value Accept(const Napi::CallbackInfo& info);

}  // namespace vfio
