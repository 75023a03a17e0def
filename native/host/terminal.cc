#include "host/terminal.h"

#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "util/arguments.h"
#include "util/failure.h"

namespace vfio {
namespace {

constexpr char kTerminal[] = "terminal";

/** The kernel stops what changes a terminal from the background, unless it has this signal blocked. */
class Unstopped {
 public:
  Unstopped() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &signals, &former_);
  }
  ~Unstopped() { pthread_sigmask(SIG_SETMASK, &former_, nullptr); }

 private:
  sigset_t former_;
};

template <typename Call>
auto Ask(Napi::Env env, const char* syscall, Call call) {
  const auto answer = call();
  if (answer >= 0) return answer;
  try {
    throw SystemFailure(errno, syscall, kTerminal, "/dev/tty");
  } catch (const SystemFailure&) {
    throw ToError(env);
  }
}

}  // namespace

Napi::Value TerminalGroups(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int terminal = DescriptorArgument(info, 0, "descriptor");
  const pid_t foreground = Ask(env, "tcgetpgrp", [&] { return tcgetpgrp(terminal); });
  Napi::Array groups = Napi::Array::New(env, 2);
  groups.Set(uint32_t{0}, Napi::Number::New(env, foreground));
  groups.Set(uint32_t{1}, Napi::Number::New(env, getpgrp()));
  return groups;
}

Napi::Value SetTerminalGroup(const Napi::CallbackInfo& info) {
  const int terminal = DescriptorArgument(info, 0, "descriptor");
  const pid_t group = DescriptorArgument(info, 1, "group");
  const Unstopped unstopped;
  Ask(info.Env(), "tcsetpgrp", [&] { return tcsetpgrp(terminal, group); });
  return info.Env().Undefined();
}

Napi::Value TerminalModes(const Napi::CallbackInfo& info) {
  const int terminal = DescriptorArgument(info, 0, "descriptor");
  Napi::ArrayBuffer modes = Napi::ArrayBuffer::New(info.Env(), sizeof(termios));
  Ask(info.Env(), "tcgetattr", [&] { return tcgetattr(terminal, static_cast<termios*>(modes.Data())); });
  return modes;
}

Napi::Value SetTerminalModes(const Napi::CallbackInfo& info) {
  const int terminal = DescriptorArgument(info, 0, "descriptor");
  const Buffer modes = BufferArgument(info, 1, "modes");
  if (modes.size != sizeof(termios)) BadArgument(info.Env(), "modes must be what terminalModes answered");
  const Unstopped unstopped;
  Ask(info.Env(), "tcsetattr",
      [&] { return tcsetattr(terminal, TCSANOW, static_cast<const termios*>(modes.data)); });
  return info.Env().Undefined();
}

}  // namespace vfio
