#include "command.h"

#include <fcntl.h>

#include <array>
#include <cstring>
#include <iterator>
#include <utility>
#include <vector>

#include "iommufd.h"
#include "memory.h"
#include "uapi/iommufd.h"
#include "util/work.h"

namespace vfio {
namespace {

// No data of an IOMMU's driver, and no list of ranges, is a tenth of it.
constexpr size_t kMostData = 1 << 16;

/** A structure of the kernel on its way, and what has to stay until it is answered. */
struct Filled {
  template <typename T>
  void Put(size_t at, T value) {
    std::memcpy(bytes() + at, &value, sizeof value);
  }
  template <typename T>
  T Get(size_t at) {
    T value;
    std::memcpy(&value, bytes() + at, sizeof value);
    return value;
  }
  char* bytes() { return reinterpret_cast<char*>(words.data()); }

  std::array<uint64_t, Command::kMostBytes / sizeof(uint64_t)> words{};
  std::vector<Resource> held;
};

/** A copy of bytes of the caller, who may change or detach them while the call runs. */
size_t PutBytes(Napi::Env env, Filled& question, size_t at, napi_value value, const char* name) {
  const Buffer given = ViewArgument(env, value, name);
  if (given.size > kMostData) BadArgument(env, std::string(name) + " must have 65536 bytes at most");
  const auto* first = static_cast<const uint8_t*>(given.data);
  const auto copy = std::make_shared<const std::vector<uint8_t>>(first, first + given.size);
  question.Put(at, AddressOf(copy->data()));
  question.held.push_back(copy);
  return given.size;
}

bool IsNull(Napi::Env env, napi_value value) {
  napi_valuetype type;
  return napi_typeof(env, value, &type) == napi_ok && type == napi_null;
}

/** How many arguments were taken. */
size_t PutArgument(Napi::Env env, const Command& command, Filled& question, const Member& member,
                   const napi_value* arguments, size_t index) {
  static constexpr const char* kNames[] = {"the first argument",  "the second argument", "the third argument",
                                           "the fourth argument", "the fifth argument",  "the sixth argument",
                                           "the seventh argument"};
  static_assert(std::size(kNames) == kMostArguments);
  const char* const name = kNames[index];
  const napi_value value = arguments[index];
  const size_t at = member.at;
  switch (member.kind) {
    case Member::kNone:
      return 0;
    case Member::kU16: {
      const uint32_t number = Uint32Argument(env, value, name);
      if (number > UINT16_MAX) BadArgument(env, std::string(name) + " must be 65535 at most");
      question.Put(at, static_cast<uint16_t>(number));
      return 1;
    }
    case Member::kOptionalU32:
      if (IsNull(env, value)) return 1;
      question.Put(Command::kFlags, uapi::kFlagOfLastMember);
      [[fallthrough]];
    case Member::kU32:
      question.Put(at, Uint32Argument(env, value, name));
      return 1;
    case Member::kU64:
      question.Put(at, CheckedUint64(env, value, name));
      return 1;
    case Member::kDescriptor: {
      // Another number for the same file: the caller may close its own before the call is made.
      const int number = ::fcntl(DescriptorArgument(env, value, name), F_DUPFD_CLOEXEC, 0);
      if (number < 0) throw SystemFailure(errno, "fcntl", command.request.name, name);
      question.held.push_back(std::make_shared<const Fd>(number, name));
      question.Put(at, int32_t{number});
      return 1;
    }
    case Member::kMemory: {
      const SharedMapping memory = env.GetInstanceData<Addon>()->handles->Share<Memory>(env, value);
      const int64_t offset = CheckedInt64(env, arguments[index + 1], "offset");
      const int64_t size = CheckedInt64(env, arguments[index + 2], "size");
      question.Put(at, PartOf(*memory, offset, size));
      question.Put(at + sizeof(uint64_t), static_cast<uint64_t>(size));
      question.held.push_back(memory);
      return 3;
    }
    case Member::kIommufd: {
      const SharedFd iommufd = Iommufd::From(env, value).fd();
      question.Put(at, int32_t{iommufd->number()});
      question.held.push_back(iommufd);
      return 1;
    }
    case Member::kBytes:
      if (IsNull(env, value)) return 1;
      question.Put(at - sizeof(uint32_t), static_cast<uint32_t>(PutBytes(env, question, at, value, name)));
      return 1;
    case Member::kPairs: {
      const size_t size = PutBytes(env, question, at, value, name);
      if (size % sizeof(uapi::IovaRange) != 0) {
        BadArgument(env, std::string(name) + " must be pairs of 64-bit words");
      }
      question.Put(at - 2 * sizeof(uint32_t), static_cast<uint32_t>(size / sizeof(uapi::IovaRange)));
      return 1;
    }
    case Member::kOptionalToken:
      if (IsNull(env, value)) return 1;
      if (PutBytes(env, question, at, value, name) != uapi::kTokenSize) {
        BadArgument(env, std::string(name) + " must have 16 bytes");
      }
      question.Put(Command::kFlags, uapi::kFlagOfLastMember);
      return 1;
  }
  return 0;
}

/** Takes the arguments from `index` on; returns the index of the next. */
size_t Fill(Napi::Env env, const Command& command, Filled& question, const napi_value* arguments, size_t index) {
  question.Put(0, uint32_t{command.size});
  for (const Member& member : command.members) {
    if (member.kind == Member::kNone) break;
    index += PutArgument(env, command, question, member, arguments, index);
  }
  return index;
}

/** `undefined` where there is none. */
Napi::Value AnswerAt(Napi::Env env, Filled& question, const Member& member) {
  if (member.kind == Member::kU32) return Napi::Number::New(env, question.Get<uint32_t>(member.at));
  if (member.kind == Member::kU64) return Napi::BigInt::New(env, question.Get<uint64_t>(member.at));
  return env.Undefined();
}

Napi::Value AnswerOf(Napi::Env env, const Command& command, Filled& question) {
  if (command.answers == nullptr) return AnswerAt(env, question, command.answer);
  Napi::Object all = Napi::Object::New(env);
  for (const NamedAnswer* each = command.answers; each->name != nullptr; each++) {
    all.Set(each->name, AnswerAt(env, question, each->member));
  }
  return all;
}

}  // namespace

Napi::Value CallCommand(Object& self, const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto& method = *static_cast<const CommandMethod*>(static_cast<const Object::MethodOf*>(info.Data()));
  const Command& command = *method.command;
  auto fd = std::static_pointer_cast<const Fd>(self.resource());
  // What a method was not called with is `undefined`.
  napi_value arguments[kMostArguments];
  for (size_t i = 0; i < kMostArguments; i++) arguments[i] = info[i];
  const auto question = std::make_shared<Filled>();
  const size_t index = Fill(env, command, *question, arguments, 0);
  std::shared_ptr<Filled> next;
  if (command.then != nullptr) {
    next = std::make_shared<Filled>();
    Fill(env, *command.then, *next, arguments, index);
  }
  if (command.work == nullptr) {
    Ioctl(*fd, command.request, question->bytes());
    return AnswerOf(env, command, *question);
  }
  return Work::Start(
      env, command.work,
      [fd = std::move(fd), &command, question, next] {
        // Let go of here: the last one of a file may take long to close.
        const std::vector<Resource> held = std::move(question->held);
        Ioctl(*fd, command.request, question->bytes());
        if (next) Ioctl(*fd, command.then->request, next->bytes());
      },
      [&command, question](Napi::Env env) { return AnswerOf(env, command, *question); });
}

}  // namespace vfio
