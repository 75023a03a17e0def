// What a device has beyond what every device has: VFIO_DEVICE_FEATURE.
#include "uapi/feature.h"

#include <fcntl.h>

#include <cstring>
#include <memory>
#include <vector>

#include "device.h"
#include "dma-buf.h"
#include "migration.h"
#include "uapi/vfio.h"
#include "util/bitmap.h"
#include "util/ioctl.h"

namespace vfio {
namespace {

// No feature's data is a hundredth of it.
constexpr size_t kLargestPayload = 1 << 16;
// A hundred times what a kernel tells of an error, which writes all of it whatever room there is.
constexpr size_t kLargestError = 1 << 13;

void AskFeature(const Fd& device, void* structure) {
  Ioctl(device, VFIO_REQUEST(VFIO_DEVICE_FEATURE), structure);
}

template <typename T>
std::shared_ptr<uapi::Feature<T>> FeatureQuestion(uint32_t flags, const T& data) {
  return std::make_shared<uapi::Feature<T>>(
      uapi::Feature<T>{static_cast<uint32_t>(sizeof(uapi::Feature<T>)), flags, data});
}

Napi::ArrayBuffer CopyOf(Napi::Env env, const void* data, size_t size) {
  Napi::ArrayBuffer copy = Napi::ArrayBuffer::New(env, size);
  if (size > 0) std::memcpy(copy.Data(), data, size);
  return copy;
}

}  // namespace

Napi::Value Device::ProbeFeature(const Napi::CallbackInfo& info) {
  uint32_t question[] = {sizeof(vfio_device_feature),
                         VFIO_DEVICE_FEATURE_PROBE | Uint32Argument(info, 0, "flags")};
  AskFeature(*fd(), question);
  return info.Env().Undefined();
}

Napi::Value Device::Feature(const Napi::CallbackInfo& info) {
  const uint32_t flags = Uint32Argument(info, 0, "flags");
  const Buffer payload = BufferArgument(info, 1, "payload");
  const size_t size = payload.size;
  if (size > kLargestPayload) BadArgument(info.Env(), "payload must have 65536 bytes at most");
  // Words of 64 bits, because the data has such: the head is the first of them.
  const auto words = std::make_shared<std::vector<uint64_t>>(1 + (size + 7) / 8);
  const uint32_t head[] = {static_cast<uint32_t>(sizeof(vfio_device_feature) + size), flags};
  std::memcpy(words->data(), head, sizeof head);
  if (size > 0) std::memcpy(words->data() + 1, payload.data, size);
  return Work::Start(
      info.Env(), "vfio:feature", [device = fd(), words] { AskFeature(*device, words->data()); },
      [words, size](Napi::Env env) { return CopyOf(env, words->data() + 1, size); });
}

Napi::Value Device::SetMigrationState(const Napi::CallbackInfo& info) {
  const auto question = FeatureQuestion(uapi::kMigrationState | VFIO_DEVICE_FEATURE_SET,
                                 uapi::MigrationState{Uint32Argument(info, 0, "state"), -1});
  const auto data = std::make_shared<SharedFd>();
  return Work::Start(
      info.Env(), "vfio:setMigrationState",
      [device = fd(), question, data] {
        AskFeature(*device, question.get());
        const int number = question->data.data_fd;
        if (number >= 0)
          *data = std::make_shared<const Fd>(number, "the migration data of " + device->path());
      },
      [data](Napi::Env env) { return *data ? MigrationData::Adopt(env, *data) : env.Null(); });
}

Napi::Value Device::StartDmaLogging(const Napi::CallbackInfo& info) {
  const uint64_t page_size = CheckedUint64(info, 0, "pageSize");
  const Buffer buffer = BufferArgument(info, 1, "ranges");
  if (buffer.size % sizeof(uapi::DmaLoggingRange) != 0 || buffer.size > kLargestPayload) {
    BadArgument(info.Env(), "ranges must be pairs of 64-bit words, 4096 of them at most");
  }
  const auto ranges =
      std::make_shared<std::vector<uapi::DmaLoggingRange>>(buffer.size / sizeof(uapi::DmaLoggingRange));
  if (buffer.size > 0) std::memcpy(ranges->data(), buffer.data, buffer.size);
  const auto question = FeatureQuestion(uapi::kDmaLoggingStart | VFIO_DEVICE_FEATURE_SET,
                                 uapi::DmaLoggingControl{page_size, static_cast<uint32_t>(ranges->size()), 0,
                                                         AddressOf(ranges->data())});
  return Work::Start(
      info.Env(), "vfio:startDmaLogging",
      [device = fd(), question, ranges] { AskFeature(*device, question.get()); },
      [question](Napi::Env env) { return Napi::BigInt::New(env, question->data.page_size); });
}

Napi::Value Device::DmaLoggingReport(const Napi::CallbackInfo& info) {
  const uint64_t iova = CheckedUint64(info, 0, "iova");
  const uint64_t length = CheckedUint64(info, 1, "length");
  const uint64_t page_size = CheckedUint64(info, 2, "pageSize");
  const Bitmap bitmap = BitmapOf(info.Env(), length, page_size);
  const auto question = FeatureQuestion(uapi::kDmaLoggingReport | VFIO_DEVICE_FEATURE_GET,
                                 uapi::DmaLoggingReport{iova, length, page_size, AddressOf(bitmap->data())});
  return Work::Start(
      info.Env(), "vfio:dmaLoggingReport",
      [device = fd(), question, bitmap] { AskFeature(*device, question.get()); }, BytesOf(bitmap));
}

Napi::Value Device::DmaBufOf(const Napi::CallbackInfo& info) {
  uapi::DmaBufRequest request{};
  request.region_index = Uint32Argument(info, 0, "region");
  request.open_flags = Uint32Argument(info, 1, "flags") | O_CLOEXEC;
  const Buffer ranges = ViewArgument(info.Env(), info[2], "ranges");
  if (ranges.size % sizeof(uapi::RegionDmaRange) != 0 || ranges.size > kLargestPayload) {
    BadArgument(info.Env(), "ranges must be pairs of 64-bit words, 4096 of them at most");
  }
  request.nr_ranges = static_cast<uint32_t>(ranges.size / sizeof(uapi::RegionDmaRange));
  constexpr size_t kHead = sizeof(uapi::Feature<uapi::DmaBufRequest>);
  const auto words = std::make_shared<std::vector<uint64_t>>((kHead + ranges.size) / sizeof(uint64_t));
  new (words->data()) uapi::Feature<uapi::DmaBufRequest>{
      static_cast<uint32_t>(kHead + ranges.size), uapi::kDmaBuf | VFIO_DEVICE_FEATURE_GET, request};
  if (ranges.size > 0) std::memcpy(words->data() + kHead / sizeof(uint64_t), ranges.data, ranges.size);
  return OpenLater(
      info.Env(), "vfio:dmaBuf",
      [device = fd(), words] {
        const int number = Ioctl(*device, VFIO_REQUEST(VFIO_DEVICE_FEATURE), words->data());
        return std::make_shared<const Fd>(number, "a dma-buf of " + device->path());
      },
      DmaBuf::Adopt);
}

Napi::Value Device::ZpciError(const Napi::CallbackInfo& info) {
  const size_t size = Uint32Argument(info, 0, "size");
  if (size > kLargestError / 2) BadArgument(info.Env(), "size must be 4096 at most");
  const auto room = std::make_shared<std::vector<uint64_t>>(kLargestError / sizeof(uint64_t));
  const auto question = FeatureQuestion(uapi::kZpciError | VFIO_DEVICE_FEATURE_GET, AddressOf(room->data()));
  return Work::Start(
      info.Env(), "vfio:zpciError", [device = fd(), question, room] { AskFeature(*device, question.get()); },
      [room, size](Napi::Env env) { return CopyOf(env, room->data(), size); });
}

}  // namespace vfio
