#include "migration.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "uapi/feature.h"

namespace vfio {
namespace {

constexpr uint32_t kMostAtOnce = 1 << 26;

size_t Checked(ssize_t count, const char* syscall, const Fd& fd) {
  if (count < 0) throw SystemFailure(errno, syscall, "migration data", fd.path());
  return static_cast<size_t>(count);
}

constexpr NamedAnswer kPrecopyAnswers[] = {
    {"initialBytes", VFIO_MEMBER(kU64, PrecopyInfo, initial_bytes)},
    {"dirtyBytes", VFIO_MEMBER(kU64, PrecopyInfo, dirty_bytes)},
    {"flags", VFIO_MEMBER(kU32, PrecopyInfo, flags)},
    {}};
constexpr Command kPrecopyInfo{{uapi::kGetPrecopyInfo, "VFIO_MIG_GET_PRECOPY_INFO"},
                               "vfio:precopyInfo",
                               sizeof(uapi::PrecopyInfo),
                               {},
                               {},
                               kPrecopyAnswers};

}  // namespace

Napi::FunctionReference MigrationData::Define(Napi::Env env) {
  return DefineFdClass(env, {
                                DefineMethod<&MigrationData::Read>("read"),
                                DefineMethod<&MigrationData::Write>("write"),
                                DefineCommand<kPrecopyInfo>("precopyInfo"),
                            });
}

Napi::Value MigrationData::Read(const Napi::CallbackInfo& info) {
  const uint32_t size = Uint32Argument(info, 0, "size");
  if (size > kMostAtOnce) BadArgument(info.Env(), "size must be 67108864 at most");
  const auto bytes = std::make_shared<std::vector<uint8_t>>();
  return Work::Start(
      info.Env(), "vfio:readMigrationData",
      [data = fd(), bytes, size] {
        bytes->resize(size);
        bytes->resize(Checked(::read(data->number(), bytes->data(), size), "read", *data));
      },
      [bytes](Napi::Env env) {
        Napi::ArrayBuffer copy = Napi::ArrayBuffer::New(env, bytes->size());
        if (!bytes->empty()) std::memcpy(copy.Data(), bytes->data(), bytes->size());
        return copy;
      });
}

Napi::Value MigrationData::Write(const Napi::CallbackInfo& info) {
  const Buffer from = BufferArgument(info, 0, "from");
  const size_t offset = Uint32Argument(info, 1, "offset");
  const size_t size = Uint32Argument(info, 2, "size");
  if (size > kMostAtOnce || offset > from.size || size > from.size - offset) {
    BadArgument(info.Env(), "offset and size must be inside the buffer, size 67108864 at most");
  }
  // A copy, since the program could detach its own while the call runs.
  const uint8_t* first = static_cast<const uint8_t*>(from.data) + offset;
  const auto bytes = std::make_shared<std::vector<uint8_t>>(first, first + size);
  const auto written = std::make_shared<size_t>();
  return Work::Start(
      info.Env(), "vfio:writeMigrationData",
      [data = fd(), bytes, written] {
        *written = Checked(::write(data->number(), bytes->data(), bytes->size()), "write", *data);
      },
      [written](Napi::Env env) { return Napi::Number::New(env, static_cast<double>(*written)); });
}

}  // namespace vfio
