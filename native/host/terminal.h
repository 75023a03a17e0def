#pragma once

#include <napi.h>

namespace vfio {

/** terminalGroups(descriptor) -> [foreground, own]: the process groups, of a terminal and of this process. */
Napi::Value TerminalGroups(const Napi::CallbackInfo& info);
// setTerminalGroup(descriptor, group): whose foreground it is, also from the background.
Napi::Value SetTerminalGroup(const Napi::CallbackInfo& info);
/** terminalModes(descriptor) -> ArrayBuffer: a struct termios. */
Napi::Value TerminalModes(const Napi::CallbackInfo& info);
// setTerminalModes(descriptor, modes), also from the background.
Napi::Value SetTerminalModes(const Napi::CallbackInfo& info);

}  // namespace vfio
