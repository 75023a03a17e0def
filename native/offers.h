#pragma once

#include <napi.h>

namespace vfio {

/**
 * Open devices on their way from one thread of this process to another, each with its group and container.
 * All three go and come together. An offer stays open until it is accepted.
 */
// offer(container, group, device) -> the number to accept it by; the objects are closed here from then on.
Napi::Value Offer(const Napi::CallbackInfo& info);
// accept(number) -> [container, group, device], once.
Napi::Value Accept(const Napi::CallbackInfo& info);

}  // namespace vfio
