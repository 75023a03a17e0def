// VFIO without iommufd: containers, and the groups that join them.
#include "type1.h"

#include <array>
#include <type_traits>
#include <vector>

#include "device.h"
#include "memory.h"
#include "uapi/vfio.h"
#include "util/answer.h"
#include "util/bitmap.h"
#include "util/ioctl.h"
#include "util/work.h"

namespace vfio {
namespace {

/** Nothing follows the structure. */
struct NoTail {};

/**
 * A structure of the kernel with its size filled in, and what follows it where its last member has none. As words,
 * because such a structure may be neither captured nor a member of another.
 */
template <typename Head, typename Tail = NoTail>
class DmaQuestion {
 public:
  DmaQuestion() { head().argsz = kSize; }
  Head& head() { return *reinterpret_cast<Head*>(words_.data()); }
  Tail& tail() { return *reinterpret_cast<Tail*>(words_.data() + sizeof(Head) / sizeof(uint64_t)); }

 private:
  static constexpr uint32_t kSize = sizeof(Head) + (std::is_empty_v<Tail> ? 0 : sizeof(Tail));
  static_assert(sizeof(Head) % sizeof(uint64_t) == 0 && kSize % sizeof(uint64_t) == 0);
  std::array<uint64_t, kSize / sizeof(uint64_t)> words_{};
};

using UnmapQuestion = DmaQuestion<vfio_iommu_type1_dma_unmap>;

vfio_iommu_type1_dma_map MapQuestion(const Mapping& memory, int64_t offset, int64_t size, uint64_t iova,
                                     uint32_t flags) {
  vfio_iommu_type1_dma_map question{};
  question.argsz = sizeof question;
  question.flags = flags;
  question.vaddr = PartOf(memory, offset, size);
  question.iova = iova;
  question.size = static_cast<uint64_t>(size);
  return question;
}

UnmapQuestion Unmapping(uint64_t iova, uint64_t size, uint32_t flags) {
  if (flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP) {
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "this call has no room for a bitmap");
  }
  UnmapQuestion question;
  question.head().flags = flags;
  question.head().iova = iova;
  question.head().size = size;
  return question;
}

napi_value Map(Napi::Env env, const Fd& container, Arguments arguments, Handles& handles) {
  vfio_iommu_type1_dma_map question =
      MapQuestion(handles.Get<Memory>(env, arguments[0]), CheckedInt64(env, arguments[1], "offset"),
                  CheckedInt64(env, arguments[2], "size"), CheckedUint64(env, arguments[3], "iova"),
                  CheckedUint32(env, arguments[4], "flags"));
  Ioctl(container, VFIO_REQUEST(VFIO_IOMMU_MAP_DMA), &question);
  return nullptr;
}

napi_value Unmap(Napi::Env env, const Fd& container, Arguments arguments, Handles&) {
  UnmapQuestion question = Unmapping(CheckedUint64(env, arguments[0], "iova"),
                                     CheckedSize(env, arguments[1], "size"),
                                     CheckedUint32(env, arguments[2], "flags"));
  Ioctl(container, VFIO_REQUEST(VFIO_IOMMU_UNMAP_DMA), &question.head());
  return ToNumber(env, question.head().size);
}

// DIRTY_BITMAP_SIZE_MAX in drivers/vfio/vfio_iommu_type1.c.
constexpr uint64_t kMostDirtyPages = uint64_t{1} << 31;

vfio_bitmap BitmapQuestion(uint64_t page_size, std::vector<uint64_t>& bits) {
  vfio_bitmap bitmap{};
  bitmap.pgsize = page_size;
  bitmap.size = bits.size() * sizeof(uint64_t);
  bitmap.data = reinterpret_cast<decltype(bitmap.data)>(bits.data());
  return bitmap;
}

napi_value Status(Napi::Env env, const Fd& fd, Arguments, Handles&) {
  vfio_group_status status{sizeof status, 0};
  Ioctl(fd, VFIO_REQUEST(VFIO_GROUP_GET_STATUS), &status);
  napi_value flags;
  NAPI_THROW_IF_FAILED(env, napi_create_uint32(env, status.flags, &flags), nullptr);
  return flags;
}

}  // namespace

Napi::FunctionReference Container::Define(Napi::Env env) {
  return DefineFdClass(env, {
                                DefineStatic<&Container::Open>("open"),
                                DefineStatic<&Container::FromDescriptor>("fromDescriptor"),
                                DefineMethod<&Container::ApiVersion>("apiVersion"),
                                DefineMethod<&Container::CheckExtension>("checkExtension"),
                                DefineMethod<&Container::SetIommu>("setIommu"),
                                DefineMethod<&Container::IommuInfo>("iommuInfo"),
                                DefineMethod<&Container::MapDma>("mapDma"),
                                DefineMethod<&Container::UnmapDma>("unmapDma"),
                                DefineMethod<&Container::LogDirtyPages>("logDirtyPages"),
                                DefineMethod<&Container::DirtyBitmap>("dirtyBitmap"),
                                DefineMethod<&Container::UnmapDirty>("unmapDirty"),
                            });
}

void Container::DefineQuick(Napi::Object exports, Handles* handles) {
  DefineCall<Container, Map, 5>(exports, "containerMapDma", handles);
  DefineCall<Container, Unmap, 3>(exports, "containerUnmapDma", handles);
}

Napi::Value Container::Open(const Napi::CallbackInfo& info) {
  return Adopt(info.Env(), OpenFile(TextArgument(info, 0, "path"), "container"));
}

Napi::Value Container::ApiVersion(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), Ioctl(*fd(), VFIO_REQUEST(VFIO_GET_API_VERSION)));
}

Napi::Value Container::CheckExtension(const Napi::CallbackInfo& info) {
  const unsigned long extension = Uint32Argument(info, 0, "extension");
  return Napi::Number::New(info.Env(), Ioctl(*fd(), VFIO_REQUEST(VFIO_CHECK_EXTENSION), extension));
}

Napi::Value Container::SetIommu(const Napi::CallbackInfo& info) {
  const unsigned long type = Uint32Argument(info, 0, "type");
  Ioctl(*fd(), VFIO_REQUEST(VFIO_SET_IOMMU), type);
  return info.Env().Undefined();
}

Napi::Value Container::IommuInfo(const Napi::CallbackInfo& info) {
  Answer answer(BufferArgument(info, 0, "into"));
  Ask(*fd(), VFIO_REQUEST(VFIO_IOMMU_GET_INFO), vfio_iommu_type1_info{}, VFIO_IOMMU_INFO_CAPS, answer);
  return Napi::Value(info.Env(), answer.ToValue(info.Env()));
}

Napi::Value Container::MapDma(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::shared_ptr<Handles>& handles = env.GetInstanceData<Addon>()->handles;
  const SharedMapping memory = handles->Share<Memory>(env, info[0]);
  const vfio_iommu_type1_dma_map question =
      MapQuestion(*memory, CheckedInt64(info, 1, "offset"), CheckedInt64(info, 2, "size"),
                  CheckedUint64(info, 3, "iova"), CheckedUint32(info, 4, "flags"));
  // The memory is held as long as the kernel works on it.
  return Work::Start(env, "vfio:mapDma", [container = fd(), memory, question]() mutable {
    Ioctl(*container, VFIO_REQUEST(VFIO_IOMMU_MAP_DMA), &question);
  });
}

Napi::Value Container::UnmapDma(const Napi::CallbackInfo& info) {
  const auto question = std::make_shared<UnmapQuestion>(Unmapping(CheckedUint64(info, 0, "iova"),
                                                                  CheckedUint64(info, 1, "size"),
                                                                  CheckedUint32(info, 2, "flags")));
  return Work::Start(
      info.Env(), "vfio:unmapDma",
      [container = fd(), question] { Ioctl(*container, VFIO_REQUEST(VFIO_IOMMU_UNMAP_DMA), &question->head()); },
      [question](Napi::Env env) -> Napi::Value {
        return Napi::BigInt::New(env, uint64_t{question->head().size});
      });
}

Napi::Value Container::LogDirtyPages(const Napi::CallbackInfo& info) {
  DmaQuestion<vfio_iommu_type1_dirty_bitmap> question;
  question.head().flags = Uint32Argument(info, 0, "flags");
  if (question.head().flags & VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP) {
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "this call has no room for a bitmap");
  }
  return Work::Start(info.Env(), "vfio:logDirtyPages", [container = fd(), question]() mutable {
    Ioctl(*container, VFIO_REQUEST(VFIO_IOMMU_DIRTY_PAGES), &question.head());
  });
}

Napi::Value Container::DirtyBitmap(const Napi::CallbackInfo& info) {
  DmaQuestion<vfio_iommu_type1_dirty_bitmap, vfio_iommu_type1_dirty_bitmap_get> question;
  question.head().flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
  question.tail().iova = CheckedUint64(info, 0, "iova");
  question.tail().size = CheckedUint64(info, 1, "size");
  const uint64_t page_size = CheckedUint64(info, 2, "pageSize");
  const auto bits = BitmapOf(info.Env(), question.tail().size, page_size, kMostDirtyPages);
  question.tail().bitmap = BitmapQuestion(page_size, *bits);
  return Work::Start(
      info.Env(), "vfio:dirtyBitmap",
      [container = fd(), bits, question]() mutable {
        Ioctl(*container, VFIO_REQUEST(VFIO_IOMMU_DIRTY_PAGES), &question.head());
      },
      BytesOf(bits));
}

Napi::Value Container::UnmapDirty(const Napi::CallbackInfo& info) {
  DmaQuestion<vfio_iommu_type1_dma_unmap, vfio_bitmap> question;
  question.head().flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
  question.head().iova = CheckedUint64(info, 0, "iova");
  question.head().size = CheckedUint64(info, 1, "size");
  const uint64_t page_size = CheckedUint64(info, 2, "pageSize");
  const auto bits = BitmapOf(info.Env(), question.head().size, page_size, kMostDirtyPages);
  question.tail() = BitmapQuestion(page_size, *bits);
  return Work::Start(
      info.Env(), "vfio:unmapDma",
      [container = fd(), bits, question]() mutable {
        Ioctl(*container, VFIO_REQUEST(VFIO_IOMMU_UNMAP_DMA), &question.head());
      },
      BytesOf(bits));
}

Napi::FunctionReference Group::Define(Napi::Env env) {
  return DefineFdClass(env, {
                                DefineStatic<&Group::Open>("open"),
                                DefineStatic<&Group::FromDescriptor>("fromDescriptor"),
                                DefineMethod<&Group::SetContainer>("setContainer"),
                                DefineMethod<&Group::UnsetContainer>("unsetContainer"),
                                DefineMethod<&Group::OpenDevice>("openDevice"),
                            });
}

void Group::DefineQuick(Napi::Object exports, Handles* handles) {
  DefineCall<Group, Status, 0>(exports, "groupStatus", handles);
}

Napi::Value Group::Open(const Napi::CallbackInfo& info) {
  return Adopt(info.Env(), OpenFile(TextArgument(info, 0, "path"), "group"));
}

Napi::Value Group::SetContainer(const Napi::CallbackInfo& info) {
  int container = Container::From(info.Env(), info[0]).fd()->number();
  Ioctl(*fd(), VFIO_REQUEST(VFIO_GROUP_SET_CONTAINER), &container);
  return info.Env().Undefined();
}

Napi::Value Group::UnsetContainer(const Napi::CallbackInfo& info) {
  Ioctl(*fd(), VFIO_REQUEST(VFIO_GROUP_UNSET_CONTAINER));
  return info.Env().Undefined();
}

Napi::Value Group::OpenDevice(const Napi::CallbackInfo& info) {
  const std::string request = TextArgument(info, 0, "request");
  const std::string name = TextArgument(info, 1, "name");
  return OpenLater(
      info.Env(), "vfio:openDevice",
      [group = fd(), request, name] {
        const int number = Ioctl(*group, VFIO_REQUEST(VFIO_GROUP_GET_DEVICE_FD), request.c_str());
        return std::make_shared<const Fd>(number, name);
      },
      Device::Adopt);
}

}  // namespace vfio
