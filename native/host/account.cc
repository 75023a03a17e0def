#include "host/account.h"

#include <grp.h>
#include <pwd.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "util/arguments.h"
#include "util/failure.h"
#include "util/work.h"

namespace vfio {
namespace {

// An entry of a large group has the names of all its members.
constexpr size_t kFirstBuffer = 4096;
constexpr size_t kLargestBuffer = 16 << 20;

// What the name services answer where they do not know a name, besides no error at all: see getpwnam(3).
bool IsUnknown(int error) {
  return error == 0 || error == ENOENT || error == ESRCH || error == EBADF || error == EPERM;
}

// Asks with a buffer that grows until the entry fits. The entry is read before its buffer goes.
template <typename Entry, typename Lookup, typename Read>
void Find(const std::string& name, const char* call, Lookup lookup, Read read) {
  for (size_t size = kFirstBuffer;; size *= 4) {
    std::vector<char> buffer(size);
    Entry entry{};
    Entry* found = nullptr;
    const int error = lookup(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
    if (error == ERANGE && size < kLargestBuffer) continue;
    if (found) {
      read(*found);
    } else if (!IsUnknown(error)) {
      throw SystemFailure(error, call, "account", name);
    }
    return;
  }
}

struct User {
  uid_t uid;
  gid_t gid;
};

}  // namespace

Napi::Value FindUser(const Napi::CallbackInfo& info) {
  const std::string name = TextArgument(info, 0, "name");
  const auto user = std::make_shared<std::optional<User>>();
  // Off the main thread: names may come from a server.
  return Work::Start(
      info.Env(), "vfio:findUser",
      [name, user] {
        Find<passwd>(name, "getpwnam_r", getpwnam_r, [&](const passwd& entry) {
          *user = User{entry.pw_uid, entry.pw_gid};
        });
      },
      [user](Napi::Env env) -> Napi::Value {
        if (!*user) return env.Null();
        Napi::Object answer = Napi::Object::New(env);
        answer.Set("uid", Napi::Number::New(env, (*user)->uid));
        answer.Set("gid", Napi::Number::New(env, (*user)->gid));
        return answer;
      });
}

Napi::Value FindGroup(const Napi::CallbackInfo& info) {
  const std::string name = TextArgument(info, 0, "name");
  const auto gid = std::make_shared<std::optional<gid_t>>();
  return Work::Start(
      info.Env(), "vfio:findGroup",
      [name, gid] {
        Find<group>(name, "getgrnam_r", getgrnam_r, [&](const group& entry) { *gid = entry.gr_gid; });
      },
      [gid](Napi::Env env) -> Napi::Value {
        return *gid ? Napi::Value(Napi::Number::New(env, **gid)) : env.Null();
      });
}

}  // namespace vfio
