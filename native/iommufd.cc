#include "iommufd.h"

#include <cstring>
#include <memory>
#include <vector>

#include "memory.h"
#include "uapi/iommufd.h"
#include "util/answer.h"
#include "util/bitmap.h"

namespace vfio {
namespace {

// On other threads, which may take long: all that has pages mapped or unmapped.
constexpr const char* kWork = "vfio:iommufd";

constexpr Command kDestroy{
    {uapi::kIommuDestroy, "IOMMU_DESTROY"}, kWork, sizeof(uapi::IommuDestroy), {VFIO_MEMBER(kU32, IommuDestroy, id)}, {}};

constexpr Command kAllocateIoas{
    {uapi::kIoasAlloc, "IOMMU_IOAS_ALLOC"}, nullptr, sizeof(uapi::IoasAlloc), {}, VFIO_MEMBER(kU32, IoasAlloc, out_ioas_id)};

constexpr Command kAllowIovas{
    {uapi::kIoasAllowIovas, "IOMMU_IOAS_ALLOW_IOVAS"}, nullptr,
    sizeof(uapi::IoasAllowIovas),
    {VFIO_MEMBER(kU32, IoasAllowIovas, ioas_id), VFIO_MEMBER(kPairs, IoasAllowIovas, allowed_iovas)},
    {}};

constexpr Command kMap{{uapi::kIoasMap, "IOMMU_IOAS_MAP"}, kWork,
                       sizeof(uapi::IoasMap),
                       {VFIO_MEMBER(kU32, IoasMap, ioas_id), VFIO_MEMBER(kMemory, IoasMap, user_va),
                        VFIO_MEMBER(kU64, IoasMap, iova), VFIO_MEMBER(kU32, IoasMap, flags)},
                       VFIO_MEMBER(kU64, IoasMap, iova)};
static_assert(offsetof(uapi::IoasMap, length) == offsetof(uapi::IoasMap, user_va) + sizeof(uint64_t));

constexpr Command kMapFile{{uapi::kIoasMapFile, "IOMMU_IOAS_MAP_FILE"}, kWork,
                           sizeof(uapi::IoasMapFile),
                           {VFIO_MEMBER(kU32, IoasMapFile, ioas_id), VFIO_MEMBER(kDescriptor, IoasMapFile, fd),
                            VFIO_MEMBER(kU64, IoasMapFile, start), VFIO_MEMBER(kU64, IoasMapFile, length),
                            VFIO_MEMBER(kU64, IoasMapFile, iova), VFIO_MEMBER(kU32, IoasMapFile, flags)},
                           VFIO_MEMBER(kU64, IoasMapFile, iova)};

constexpr Command kCopy{{uapi::kIoasCopy, "IOMMU_IOAS_COPY"}, kWork,
                        sizeof(uapi::IoasCopy),
                        {VFIO_MEMBER(kU32, IoasCopy, dst_ioas_id), VFIO_MEMBER(kU32, IoasCopy, src_ioas_id),
                         VFIO_MEMBER(kU64, IoasCopy, length), VFIO_MEMBER(kU64, IoasCopy, dst_iova),
                         VFIO_MEMBER(kU64, IoasCopy, src_iova), VFIO_MEMBER(kU32, IoasCopy, flags)},
                        VFIO_MEMBER(kU64, IoasCopy, dst_iova)};

constexpr Command kUnmap{{uapi::kIoasUnmap, "IOMMU_IOAS_UNMAP"}, kWork,
                         sizeof(uapi::IoasUnmap),
                         {VFIO_MEMBER(kU32, IoasUnmap, ioas_id), VFIO_MEMBER(kU64, IoasUnmap, iova),
                          VFIO_MEMBER(kU64, IoasUnmap, length)},
                         VFIO_MEMBER(kU64, IoasUnmap, length)};

constexpr Command kChangeProcess{
    {uapi::kIoasChangeProcess, "IOMMU_IOAS_CHANGE_PROCESS"}, kWork, sizeof(uapi::IoasChangeProcess), {}, {}};

constexpr Command kOption{{uapi::kIommuOption, "IOMMU_OPTION"}, nullptr,
                          sizeof(uapi::IommuOption),
                          {VFIO_MEMBER(kU32, IommuOption, option_id), VFIO_MEMBER(kU16, IommuOption, op),
                           VFIO_MEMBER(kU32, IommuOption, object_id), VFIO_MEMBER(kU64, IommuOption, val64)},
                          VFIO_MEMBER(kU64, IommuOption, val64)};

constexpr Command kAllocateHwpt{
    {uapi::kHwptAlloc, "IOMMU_HWPT_ALLOC"}, kWork,
    sizeof(uapi::HwptAlloc),
    {VFIO_MEMBER(kU32, HwptAlloc, dev_id), VFIO_MEMBER(kU32, HwptAlloc, pt_id), VFIO_MEMBER(kU32, HwptAlloc, flags),
     VFIO_MEMBER(kU32, HwptAlloc, data_type), VFIO_MEMBER(kBytes, HwptAlloc, data_uptr),
     VFIO_MEMBER(kU32, HwptAlloc, fault_id)},
    VFIO_MEMBER(kU32, HwptAlloc, out_hwpt_id)};

constexpr Command kSetDirtyTracking{
    {uapi::kHwptSetDirtyTracking, "IOMMU_HWPT_SET_DIRTY_TRACKING"}, kWork,
    sizeof(uapi::HwptSetDirtyTracking),
    {VFIO_MEMBER(kU32, HwptSetDirtyTracking, hwpt_id), VFIO_MEMBER(kU32, HwptSetDirtyTracking, flags)},
    {}};

constexpr NamedAnswer kNoiommuPaAnswers[] = {{"address", VFIO_MEMBER(kU64, IoasNoiommuGetPa, out_phys)},
                                            {"length", VFIO_MEMBER(kU64, IoasNoiommuGetPa, length)},
                                            {}};
constexpr Command kNoiommuPa{{uapi::kIoasNoiommuGetPa, "IOMMU_IOAS_NOIOMMU_GET_PA"},
                             kWork,
                             sizeof(uapi::IoasNoiommuGetPa),
                             {VFIO_MEMBER(kU32, IoasNoiommuGetPa, ioas_id), VFIO_MEMBER(kU64, IoasNoiommuGetPa, iova),
                              VFIO_MEMBER(kU64, IoasNoiommuGetPa, length)},
                             {},
                             kNoiommuPaAnswers};

Napi::Value BigInt(Napi::Env env, uint64_t value) {
  return Napi::BigInt::New(env, value);
}

// The two that are made often are written out: reading the tables would double their cost.

napi_value MapNow(Napi::Env env, const Fd& iommufd, Arguments arguments, Handles& handles) {
  uapi::IoasMap question{};
  question.size = sizeof question;
  question.ioas_id = CheckedUint32(env, arguments[0], "ioas");
  const Mapping& memory = handles.Get<Memory>(env, arguments[1]);
  const int64_t size = CheckedInt64(env, arguments[3], "size");
  question.user_va = PartOf(memory, CheckedInt64(env, arguments[2], "offset"), size);
  question.length = static_cast<uint64_t>(size);
  question.iova = CheckedUint64(env, arguments[4], "iova");
  question.flags = CheckedUint32(env, arguments[5], "flags");
  Ioctl(iommufd, kMap.request, &question);
  return BigInt(env, question.iova);
}

napi_value UnmapNow(Napi::Env env, const Fd& iommufd, Arguments arguments, Handles&) {
  uapi::IoasUnmap question{};
  question.size = sizeof question;
  question.ioas_id = CheckedUint32(env, arguments[0], "ioas");
  question.iova = CheckedUint64(env, arguments[1], "iova");
  question.length = CheckedSize(env, arguments[2], "size");
  Ioctl(iommufd, kUnmap.request, &question);
  return ToNumber(env, question.length);
}

}  // namespace

Napi::FunctionReference Iommufd::Define(Napi::Env env) {
  return DefineFdClass(env, {
                                DefineStatic<&Iommufd::Open>("open"),
                                DefineStatic<&Iommufd::FromDescriptor>("fromDescriptor"),
                                DefineCommand<kDestroy>("destroy"),
                                DefineCommand<kAllocateIoas>("allocateIoas"),
                                DefineMethod<&Iommufd::IovaRanges>("iovaRanges"),
                                DefineCommand<kAllowIovas>("allowIovas"),
                                DefineCommand<kMap>("map"),
                                DefineCommand<kMapFile>("mapFile"),
                                DefineCommand<kCopy>("copy"),
                                DefineCommand<kUnmap>("unmap"),
                                DefineCommand<kChangeProcess>("changeProcess"),
                                DefineCommand<kOption>("option"),
                                DefineCommand<kAllocateHwpt>("allocateHwpt"),
                                DefineCommand<kSetDirtyTracking>("setDirtyTracking"),
                                DefineMethod<&Iommufd::DirtyBitmap>("dirtyBitmap"),
                                DefineMethod<&Iommufd::HwInfo>("hwInfo"),
                                DefineCommand<kNoiommuPa>("noiommuPa"),
                            });
}

void Iommufd::DefineQuick(Napi::Object exports, Handles* handles) {
  DefineCall<Iommufd, MapNow, 6>(exports, "iommufdMap", handles);
  DefineCall<Iommufd, UnmapNow, 3>(exports, "iommufdUnmap", handles);
}

Napi::Value Iommufd::Open(const Napi::CallbackInfo& info) {
  return Adopt(info.Env(), OpenFile(TextArgument(info, 0, "path"), "iommufd"));
}

Napi::Value Iommufd::IovaRanges(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Request request{uapi::kIoasIovaRanges, "IOMMU_IOAS_IOVA_RANGES"};
  uapi::IoasIovaRanges question{};
  question.size = sizeof question;
  question.ioas_id = Uint32Argument(info, 0, "ioas");
  Answer answer;
  const auto ask = [&] {
    question.num_iovas = static_cast<uint32_t>(answer.size() / sizeof(uapi::IovaRange));
    question.allowed_iovas = AddressOf(answer.data());
    Ioctl(*fd(), request, &question);
  };
  try {
    ask();
  } catch (const SystemFailure& failure) {
    const size_t wanted = question.num_iovas * sizeof(uapi::IovaRange);
    if (failure.error != EMSGSIZE || wanted <= answer.size()) throw;
    answer.Grow(wanted, request.name);
    ask();
  }
  const size_t size = question.num_iovas * sizeof(uapi::IovaRange);
  if (size > answer.size()) {
    throw Refusal("ERR_VFIO_BAD_KERNEL_DATA",
                  std::string(request.name) + ": more ranges are announced than the answer holds");
  }
  Napi::Object all = Napi::Object::New(env);
  all.Set("alignment", BigInt(env, question.out_iova_alignment));
  all.Set("ranges", Napi::BigUint64Array::New(env, 2 * size_t{question.num_iovas},
                                              Napi::ArrayBuffer(env, answer.Copy(env, size)), 0));
  return all;
}

Napi::Value Iommufd::HwInfo(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Request request{uapi::kGetHwInfo, "IOMMU_GET_HW_INFO"};
  uapi::HwInfo question{};
  Answer answer;
  const auto ask = [&] {
    question = {};
    question.size = sizeof question;
    question.dev_id = Uint32Argument(info, 0, "device");
    question.flags = Uint32Argument(info, 1, "flags");
    question.data_type = Uint32Argument(info, 2, "type");
    question.data_len = static_cast<uint32_t>(answer.size());
    question.data_uptr = AddressOf(answer.data());
    Ioctl(*fd(), request, &question);
  };
  ask();
  if (question.data_len > answer.size()) {
    answer.Grow(question.data_len, request.name);
    ask();
  }
  if (question.data_len > answer.size()) {
    throw Refusal("ERR_VFIO_BAD_KERNEL_DATA",
                  std::string(request.name) + ": the answer grew while it was read");
  }
  Napi::Object all = Napi::Object::New(env);
  all.Set("type", Napi::Number::New(env, question.data_type));
  all.Set("capabilities", BigInt(env, question.out_capabilities));
  all.Set("pasidBits", Napi::Number::New(env, question.out_max_pasid_log2));
  all.Set("data", Napi::Value(env, answer.Copy(env, question.data_len)));
  return all;
}

Napi::Value Iommufd::DirtyBitmap(const Napi::CallbackInfo& info) {
  uapi::HwptGetDirtyBitmap question{};
  question.size = sizeof question;
  question.hwpt_id = Uint32Argument(info, 0, "hwpt");
  question.iova = CheckedUint64(info, 1, "iova");
  question.length = CheckedUint64(info, 2, "size");
  question.page_size = CheckedUint64(info, 3, "pageSize");
  question.flags = Uint32Argument(info, 4, "flags");
  const auto bits = BitmapOf(info.Env(), question.length, question.page_size);
  question.data = AddressOf(bits->data());
  return Work::Start(
      info.Env(), "vfio:iommufd",
      [iommufd = fd(), bits, question]() mutable {
        Ioctl(*iommufd, {uapi::kHwptGetDirtyBitmap, "IOMMU_HWPT_GET_DIRTY_BITMAP"}, &question);
      },
      BytesOf(bits));
}

}  // namespace vfio
