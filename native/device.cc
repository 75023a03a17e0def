#include "device.h"

#include <cstring>
#include <vector>

#include "memory.h"
#include "type1.h"
#include "uapi/iommufd.h"
#include "uapi/vfio.h"
#include "util/answer.h"
#include "util/ioctl.h"

namespace vfio {
namespace {

constexpr size_t HotResetInfoSize(size_t count) {
  return sizeof(vfio_pci_hot_reset_info) + count * sizeof(vfio_pci_dependent_device);
}

// Not Ask(): this one says ENOSPC and a count where the others say argsz.
void AskHotResetInfo(const Fd& fd, Answer& answer) {
  const Request request = VFIO_REQUEST(VFIO_DEVICE_GET_PCI_HOT_RESET_INFO);
  auto* info = answer.Put(vfio_pci_hot_reset_info{});
  try {
    Ioctl(fd, request, info);
  } catch (const SystemFailure& failure) {
    if (failure.error != ENOSPC || HotResetInfoSize(info->count) <= answer.size()) throw;
    answer.Grow(HotResetInfoSize(info->count), request.name);
    info = answer.Put(vfio_pci_hot_reset_info{});
    Ioctl(fd, request, info);
  }
  if (HotResetInfoSize(info->count) > answer.size()) {
    throw Refusal("ERR_VFIO_BAD_KERNEL_DATA",
                  std::string(request.name) + ": more devices are announced than the answer holds");
  }
}

napi_value RegionInfo(Napi::Env env, const Fd& fd, Arguments arguments, Handles&) {
  vfio_region_info question{};
  question.index = CheckedUint32(env, arguments[0], "index");
  Answer answer(BufferArgument(env, arguments[1], "into"));
  Ask(fd, VFIO_REQUEST(VFIO_DEVICE_GET_REGION_INFO), question, VFIO_REGION_INFO_FLAG_CAPS, answer);
  return answer.ToValue(env);
}

napi_value IrqInfo(Napi::Env env, const Fd& fd, Arguments arguments, Handles&) {
  vfio_irq_info info{};
  info.argsz = sizeof info;
  info.index = CheckedUint32(env, arguments[0], "index");
  Ioctl(fd, VFIO_REQUEST(VFIO_DEVICE_GET_IRQ_INFO), &info);
  if (info.flags > 0xffff) {
    throw Refusal("ERR_VFIO_BAD_KERNEL_DATA", "VFIO_DEVICE_GET_IRQ_INFO: impossible flags");
  }
  // One number is the quickest answer there is: a small integer for all counts that devices have, and always
  // exact.
  return ToNumber(env, uint64_t{info.count} << 16 | info.flags);
}

// One interrupt or several without data: the kernel is to trigger, mask or unmask them.
napi_value SignalIrqs(Napi::Env env, const Fd& fd, Arguments arguments, Handles&) {
  vfio_irq_set question{};
  question.argsz = sizeof question;
  question.flags = CheckedUint32(env, arguments[0], "flags");
  question.index = CheckedUint32(env, arguments[1], "index");
  question.start = CheckedUint32(env, arguments[2], "start");
  question.count = CheckedUint32(env, arguments[3], "count");
  if ((question.flags & VFIO_IRQ_SET_DATA_NONE) == 0) {
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "this call takes no data");
  }
  Ioctl(fd, VFIO_REQUEST(VFIO_DEVICE_SET_IRQS), &question);
  return nullptr;
}

constexpr Command kAttach{
    {uapi::kAttachIommufdPt, "VFIO_DEVICE_ATTACH_IOMMUFD_PT"},
    "vfio:attach",
    sizeof(uapi::AttachIommufdPt),
    {VFIO_MEMBER(kU32, AttachIommufdPt, pt_id), VFIO_MEMBER(kOptionalU32, AttachIommufdPt, pasid)},
    VFIO_MEMBER(kU32, AttachIommufdPt, pt_id)};

constexpr Command Binding(const Command* then) {
  return {{uapi::kBindIommufd, "VFIO_DEVICE_BIND_IOMMUFD"},
          "vfio:bind",
          sizeof(uapi::BindIommufd),
          {VFIO_MEMBER(kIommufd, BindIommufd, iommufd), VFIO_MEMBER(kOptionalToken, BindIommufd, token_uuid_ptr)},
          VFIO_MEMBER(kU32, BindIommufd, out_devid),
          nullptr,
          then};
}
constexpr Command kBind = Binding(nullptr);
constexpr Command kBindAndAttach = Binding(&kAttach);

constexpr Command kDetach{{uapi::kDetachIommufdPt, "VFIO_DEVICE_DETACH_IOMMUFD_PT"},
                          "vfio:detach",
                          sizeof(uapi::DetachIommufdPt),
                          {VFIO_MEMBER(kOptionalU32, DetachIommufdPt, pasid)},
                          {}};

}  // namespace

void Device::DefineQuick(Napi::Object exports, Handles* handles) {
  DefineCall<Device, RegionInfo, 2>(exports, "deviceRegionInfo", handles);
  DefineCall<Device, IrqInfo, 1>(exports, "deviceIrqInfo", handles);
  DefineCall<Device, SignalIrqs, 4>(exports, "deviceSignalIrqs", handles);
}

Napi::FunctionReference Device::Define(Napi::Env env) {
  return DefineFdClass(env, {
                                DefineStatic<&Device::OpenCdev>("openCdev"),
                                DefineStatic<&Device::FromDescriptor>("fromDescriptor"),
                                DefineCommand<kBind>("bindIommufd"),
                                DefineCommand<kBindAndAttach>("bindAndAttach"),
                                DefineCommand<kAttach>("attach"),
                                DefineCommand<kDetach>("detach"),
                                DefineMethod<&Device::Info>("info"),
                                DefineMethod<&Device::HotResetInfo>("hotResetInfo"),
                                DefineMethod<&Device::Map>("map"),
                                DefineMethod<&Device::SetIrqs>("setIrqs"),
                                DefineMethod<&Device::Reset>("reset"),
                                DefineMethod<&Device::HotReset>("hotReset"),
                                DefineMethod<&Device::ProbeFeature>("probeFeature"),
                                DefineMethod<&Device::Feature>("feature"),
                                DefineMethod<&Device::SetMigrationState>("setMigrationState"),
                                DefineMethod<&Device::StartDmaLogging>("startDmaLogging"),
                                DefineMethod<&Device::DmaLoggingReport>("dmaLoggingReport"),
                                DefineMethod<&Device::DmaBufOf>("dmaBuf"),
                                DefineMethod<&Device::ZpciError>("zpciError"),
                                DefineMethod<&Device::Ioeventfd>("ioeventfd"),
                            });
}

Napi::Value Device::OpenCdev(const Napi::CallbackInfo& info) {
  return Adopt(info.Env(), OpenFile(TextArgument(info, 0, "path"), "cdev"));
}

Napi::Value Device::Info(const Napi::CallbackInfo& info) {
  Answer answer(BufferArgument(info, 0, "into"));
  Ask(*fd(), VFIO_REQUEST(VFIO_DEVICE_GET_INFO), vfio_device_info{}, VFIO_DEVICE_FLAGS_CAPS, answer);
  return Napi::Value(info.Env(), answer.ToValue(info.Env()));
}

Napi::Value Device::HotResetInfo(const Napi::CallbackInfo& info) {
  Answer answer(BufferArgument(info, 0, "into"));
  AskHotResetInfo(*fd(), answer);
  return Napi::Value(info.Env(), answer.ToValue(info.Env()));
}

Napi::Value Device::Map(const Napi::CallbackInfo& info) {
  const int64_t position = CheckedInt64(info, 0, "position");
  const int64_t size = CheckedInt64(info, 1, "size");
  if (size <= 0) BadArgument(info.Env(), "size must be above 0");
  return Memory::Adopt(info.Env(), std::make_shared<const Mapping>(fd(), Mapping::Behind::kDevice, "region",
                                                                   position, static_cast<size_t>(size)));
}

Napi::Value Device::SetIrqs(const Napi::CallbackInfo& info) {
  const Buffer eventfds = ViewArgument(info.Env(), info[4], "eventfds");
  // Words, because the structure is five of them and then one for each descriptor.
  std::vector<uint32_t> words((sizeof(vfio_irq_set) + eventfds.size + 3) / sizeof(uint32_t));
  auto* question = reinterpret_cast<vfio_irq_set*>(words.data());
  question->argsz = static_cast<uint32_t>(words.size() * sizeof(uint32_t));
  question->flags = Uint32Argument(info, 0, "flags");
  question->index = Uint32Argument(info, 1, "index");
  question->start = Uint32Argument(info, 2, "start");
  question->count = Uint32Argument(info, 3, "count");
  if (eventfds.size > 0) std::memcpy(question->data, eventfds.data, eventfds.size);
  return Napi::Number::New(info.Env(), Ioctl(*fd(), VFIO_REQUEST(VFIO_DEVICE_SET_IRQS), question));
}

Napi::Value Device::Reset(const Napi::CallbackInfo& info) {
  return Work::Start(info.Env(), "vfio:reset",
                     [device = fd()] { Ioctl(*device, VFIO_REQUEST(VFIO_DEVICE_RESET)); });
}

Napi::Value Device::HotReset(const Napi::CallbackInfo& info) {
  if (!info[0].IsArray()) BadArgument(info.Env(), "groups must be an array of Group");
  const Napi::Array array = info[0].As<Napi::Array>();
  std::vector<SharedFd> groups;
  for (uint32_t i = 0; i < array.Length(); i++) groups.push_back(Group::From(info.Env(), array.Get(i)).fd());
  return Work::Start(info.Env(), "vfio:hotReset", [device = fd(), groups] {
    // Words, because the structure is three of them and then one for each descriptor.
    std::vector<uint32_t> words(sizeof(vfio_pci_hot_reset) / sizeof(uint32_t));
    for (const SharedFd& group : groups) words.push_back(static_cast<uint32_t>(group->number()));
    auto* question = reinterpret_cast<vfio_pci_hot_reset*>(words.data());
    question->argsz = static_cast<uint32_t>(words.size() * sizeof(uint32_t));
    question->count = static_cast<uint32_t>(groups.size());
    Ioctl(*device, VFIO_REQUEST(VFIO_DEVICE_PCI_HOT_RESET), question);
  });
}

}  // namespace vfio
