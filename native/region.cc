#include "region.h"

#include <unistd.h>

#include "device.h"
#include "util/mmio.h"

namespace vfio {
namespace {

constexpr const char* kRequest = "region";

[[noreturn]] void Fail(const char* call, const Fd& fd) {
  throw SystemFailure(errno, call, kRequest, fd.path());
}

[[noreturn]] void CutShort(const char* call, ssize_t done, size_t wanted) {
  throw Refusal("ERR_VFIO_BAD_KERNEL_DATA", std::string(call) + " of a region ended after " +
                                                std::to_string(done) + " of " + std::to_string(wanted) +
                                                " bytes");
}

// One call, because several would be several accesses of the device.
VFIO_INLINE void ReadExactly(const Fd& fd, void* into, size_t size, int64_t position) {
  const ssize_t done = ::pread(fd.number(), into, size, position);
  if (done < 0) Fail("pread", fd);
  if (static_cast<size_t>(done) != size) CutShort("pread", done, size);
}

void WriteExactly(const Fd& fd, const void* from, size_t size, int64_t position) {
  const ssize_t done = ::pwrite(fd.number(), from, size, position);
  if (done < 0) Fail("pwrite", fd);
  if (static_cast<size_t>(done) != size) CutShort("pwrite", done, size);
}

template <typename T>
napi_value Read(Napi::Env env, const Fd& fd, Arguments arguments, Handles&) {
  T word;
  ReadExactly(fd, &word, sizeof word, CheckedInt64(env, arguments[0], "position"));
  if constexpr (sizeof(T) == sizeof(uint64_t)) {
    napi_value value;
    NAPI_THROW_IF_FAILED(env, napi_create_bigint_uint64(env, mmio::ToPci(word), &value), nullptr);
    return value;
  } else {
    return ToNumber(env, mmio::ToPci(word));
  }
}

template <typename T>
napi_value Write(Napi::Env env, const Fd& fd, Arguments arguments, Handles&) {
  const T word = mmio::ToPci(CheckedWord<T>(env, arguments[1], "value"));
  WriteExactly(fd, &word, sizeof word, CheckedInt64(env, arguments[0], "position"));
  return nullptr;
}

napi_value CopyOut(Napi::Env env, const Fd& fd, Arguments arguments, Handles&) {
  const Buffer into = ViewArgument(env, arguments[1], "into");
  ReadExactly(fd, into.data, into.size, CheckedInt64(env, arguments[0], "position"));
  return nullptr;
}

napi_value CopyIn(Napi::Env env, const Fd& fd, Arguments arguments, Handles&) {
  const Buffer from = ViewArgument(env, arguments[1], "from");
  WriteExactly(fd, from.data, from.size, CheckedInt64(env, arguments[0], "position"));
  return nullptr;
}

}  // namespace

void DefineRegionAccess(Napi::Object exports, Handles* handles) {
  DefineCall<Device, Read<uint8_t>, 1>(exports, "deviceRead8", handles);
  DefineCall<Device, Read<uint16_t>, 1>(exports, "deviceRead16", handles);
  DefineCall<Device, Read<uint32_t>, 1>(exports, "deviceRead32", handles);
  DefineCall<Device, Read<uint64_t>, 1>(exports, "deviceRead64", handles);
  DefineCall<Device, Write<uint8_t>, 2>(exports, "deviceWrite8", handles);
  DefineCall<Device, Write<uint16_t>, 2>(exports, "deviceWrite16", handles);
  DefineCall<Device, Write<uint32_t>, 2>(exports, "deviceWrite32", handles);
  DefineCall<Device, Write<uint64_t>, 2>(exports, "deviceWrite64", handles);
  DefineCall<Device, CopyOut, 2>(exports, "deviceCopyOut", handles);
  DefineCall<Device, CopyIn, 2>(exports, "deviceCopyIn", handles);
}

}  // namespace vfio
