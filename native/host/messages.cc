#include "host/messages.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/nsfs.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "util/arguments.h"
#include "util/failure.h"

namespace vfio {
namespace {

// What a message that was received begins with: port and groups of its sender, then pid and uid.
constexpr size_t kSenderWords = 4;
constexpr size_t kSenderBytes = kSenderWords * sizeof(uint32_t);
// No process has it, so that a sender who is not told is nobody.
constexpr uint32_t kUnknown = UINT32_MAX;

Napi::Value Count(const Napi::CallbackInfo& info, ssize_t count) {
  const bool is_empty = count < 0 && (errno == EAGAIN || errno == EINTR);
  return Napi::Number::New(info.Env(), is_empty ? 0 : count < 0 ? -errno : static_cast<double>(count));
}

}  // namespace

Napi::FunctionReference Messages::Define(Napi::Env env) {
  return DefineFdClass(env, {
                                DefineStatic<&Messages::OpenUevents>("openUevents"),
                                DefineStatic<&Messages::OpenLog>("openLog"),
                                DefineStatic<&Messages::OpenInotify>("openInotify"),
                                DefineMethod<&Messages::AddPath>("addPath"),
                                DefineMethod<&Messages::Receive>("receive"),
                                DefineMethod<&Messages::Read>("read"),
                            });
}

Napi::Value Messages::OpenUevents(const Napi::CallbackInfo& info) {
  const uint32_t groups = Uint32Argument(info, 0, "groups");
  const int space = static_cast<int>(Uint32Argument(info, 1, "space") & INT32_MAX);
  const int number =
      ::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
  if (number < 0) throw SystemFailure(errno, "socket", "uevents", "netlink");
  const auto socket = std::make_shared<const Fd>(number, "netlink");
  // More than everybody may have takes CAP_NET_ADMIN.
  if (::setsockopt(number, SOL_SOCKET, SO_RCVBUFFORCE, &space, sizeof space) != 0)
    ::setsockopt(number, SOL_SOCKET, SO_RCVBUF, &space, sizeof space);
  const int on = 1;
  if (::setsockopt(number, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0)
    throw SystemFailure(errno, "setsockopt", "uevents", "netlink");
  sockaddr_nl name{};
  name.nl_family = AF_NETLINK;
  name.nl_groups = groups;
  if (::bind(number, reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0)
    throw SystemFailure(errno, "bind", "uevents", "netlink");
  return Adopt(info.Env(), socket);
}

// From what is logged from now on.
Napi::Value Messages::OpenLog(const Napi::CallbackInfo& info) {
  const std::string path = TextArgument(info, 0, "path");
  const int number = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (number < 0) throw SystemFailure(errno, "open", "kernel log", path);
  const auto log = std::make_shared<const Fd>(number, path);
  if (::lseek(number, 0, SEEK_END) < 0) throw SystemFailure(errno, "lseek", "kernel log", path);
  return Adopt(info.Env(), log);
}

Napi::Value Messages::Receive(const Napi::CallbackInfo& info) {
  const Buffer into = ViewArgument(info.Env(), info[0], "into");
  if (into.size <= kSenderBytes) BadArgument(info.Env(), "into has no room for a message");
  sockaddr_nl sender{};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
  auto* const bytes = static_cast<char*>(into.data);
  iovec data{bytes + kSenderBytes, into.size - kSenderBytes};
  msghdr message{};
  message.msg_name = &sender;
  message.msg_namelen = sizeof sender;
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t count = ::recvmsg(fd()->number(), &message, MSG_CMSG_CLOEXEC);
  if (count < 0) return Count(info, count);
  if (message.msg_flags & MSG_TRUNC) return Napi::Number::New(info.Env(), -EMSGSIZE);
  uint32_t who[kSenderWords] = {sender.nl_pid, sender.nl_groups, kUnknown, kUnknown};
  // There is room for one part: where that is another, the sender stays unknown.
  const cmsghdr* const part = CMSG_FIRSTHDR(&message);
  if (part && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_CREDENTIALS) {
    ucred credentials;
    std::memcpy(&credentials, CMSG_DATA(part), sizeof credentials);
    who[2] = static_cast<uint32_t>(credentials.pid);
    who[3] = credentials.uid;
  }
  std::memcpy(bytes, who, kSenderBytes);
  return Napi::Number::New(info.Env(), static_cast<double>(count + static_cast<ssize_t>(kSenderBytes)));
}

Napi::Value Messages::Read(const Napi::CallbackInfo& info) {
  const Buffer into = ViewArgument(info.Env(), info[0], "into");
  return Count(info, ::read(fd()->number(), into.data, into.size));
}

Napi::Value NetworkOwner(const Napi::CallbackInfo& info) {
  try {
    const char* const path = "/proc/self/ns/net";
    const int number = ::open(path, O_RDONLY | O_CLOEXEC);
    if (number < 0) throw SystemFailure(errno, "open", "uevents", path);
    const Fd space(number, path);
    const int found = ::ioctl(space.number(), NS_GET_USERNS);
    if (found < 0) throw SystemFailure(errno, "ioctl", "uevents", path);
    const Fd owner(found, path);
    struct stat facts;
    if (::fstat(owner.number(), &facts) != 0) throw SystemFailure(errno, "fstat", "uevents", path);
    return Napi::Number::New(info.Env(), static_cast<double>(facts.st_ino));
  } catch (...) {
    throw ToError(info.Env());
  }
}

}  // namespace vfio
