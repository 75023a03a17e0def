#include "host/account.h"

#include <grp.h>
#include <pwd.h>

#include <cerrno>
#include <cstdlib>
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
// NGROUPS_MAX of Linux.
constexpr int kMostGroups = 1 << 16;

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
  std::string name;
  std::string home;
  std::vector<gid_t> groups;
};

std::vector<gid_t> GroupsOf(const std::string& name, gid_t gid) {
  // One more each time that the database has more.
  for (int size = 64;; size *= 4) {
    std::vector<gid_t> groups(static_cast<size_t>(size));
    int count = size;
    if (getgrouplist(name.c_str(), gid, groups.data(), &count) >= 0) {
      groups.resize(static_cast<size_t>(count));
      return groups;
    }
    if (size > kMostGroups) throw SystemFailure(E2BIG, "getgrouplist", "account", name);
  }
}

}  // namespace

Napi::Value FindUser(const Napi::CallbackInfo& info) {
  const std::string name = TextArgument(info, 0, "name");
  const auto user = std::make_shared<std::optional<User>>();
  // Off the main thread: names may come from a server.
  return Work::Start(
      info.Env(), "vfio:findUser",
      [name, user] {
        const auto read = [&](const passwd& entry) {
          *user = User{entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir, {}};
        };
        const auto by_number = [](const char* digits, passwd* entry, char* buffer, size_t size, passwd** found) {
          return getpwuid_r(static_cast<uid_t>(std::strtoul(digits, nullptr, 10)), entry, buffer, size, found);
        };
        const bool is_number = name.find_first_not_of("0123456789") == std::string::npos;
        if (is_number) {
          Find<passwd>(name, "getpwuid_r", by_number, read);
        } else {
          Find<passwd>(name, "getpwnam_r", getpwnam_r, read);
        }
        if (*user) (*user)->groups = GroupsOf((*user)->name, (*user)->gid);
      },
      [user](Napi::Env env) -> Napi::Value {
        if (!*user) return env.Null();
        Napi::Object answer = Napi::Object::New(env);
        answer.Set("uid", Napi::Number::New(env, (*user)->uid));
        answer.Set("gid", Napi::Number::New(env, (*user)->gid));
        answer.Set("name", Napi::String::New(env, (*user)->name));
        answer.Set("home", Napi::String::New(env, (*user)->home));
        Napi::Array groups = Napi::Array::New(env, (*user)->groups.size());
        for (size_t i = 0; i < (*user)->groups.size(); i++)
          groups.Set(static_cast<uint32_t>(i), Napi::Number::New(env, (*user)->groups[i]));
        answer.Set("groups", groups);
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
