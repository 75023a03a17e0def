#include "dma.h"

#include <array>
#include <cstring>
#include <vector>

#include "container.h"
#include "memory.h"
#include "uapi/vfio.h"
#include "util/ioctl.h"
#include "util/work.h"

namespace vfio {
namespace {

// The arguments of a mapping: the number of the memory, where it begins there, size, IOVA, flags.
vfio_iommu_type1_dma_map MapQuestion(Napi::Env env, const Mapping& memory, Arguments arguments) {
  const int64_t offset = CheckedInt64(env, arguments[1], "offset");
  const int64_t size = CheckedInt64(env, arguments[2], "size");
  if (offset < 0 || size < 0 || static_cast<uint64_t>(offset) > memory.size() ||
      static_cast<uint64_t>(size) > memory.size() - static_cast<uint64_t>(offset)) {
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "outside of the memory");
  }
  vfio_iommu_type1_dma_map question{};
  question.argsz = sizeof question;
  question.flags = CheckedUint32(env, arguments[4], "flags");
  question.vaddr = reinterpret_cast<uintptr_t>(memory.data()) + static_cast<uint64_t>(offset);
  question.iova = CheckedUint64(env, arguments[3], "iova");
  question.size = static_cast<uint64_t>(size);
  return question;
}

// The arguments of an unmapping: IOVA, size, flags.
vfio_iommu_type1_dma_unmap UnmapQuestion(Napi::Env env, Arguments arguments) {
  vfio_iommu_type1_dma_unmap question{};
  question.argsz = sizeof question;
  question.flags = CheckedUint32(env, arguments[2], "flags");
  if (question.flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP) {
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "this call has no room for a bitmap");
  }
  question.iova = CheckedUint64(env, arguments[0], "iova");
  question.size = CheckedUint64(env, arguments[1], "size");
  return question;
}

napi_value Map(Napi::Env env, const Fd& container, Arguments arguments, Handles& handles) {
  vfio_iommu_type1_dma_map question = MapQuestion(env, handles.Get<Memory>(env, arguments[0]), arguments);
  Ioctl(container, VFIO_REQUEST(VFIO_IOMMU_MAP_DMA), &question);
  return nullptr;
}

napi_value Unmap(Napi::Env env, const Fd& container, Arguments arguments, Handles&) {
  vfio_iommu_type1_dma_unmap question = UnmapQuestion(env, arguments);
  Ioctl(container, VFIO_REQUEST(VFIO_IOMMU_UNMAP_DMA), &question);
  return Napi::BigInt::New(env, uint64_t{question.size});
}

/** A structure of the kernel whose last member has no size, and what follows it there. */
template <typename Head, typename Tail>
class WithTail {
 public:
  WithTail() { head().argsz = sizeof(Head) + sizeof(Tail); }
  Head& head() { return *reinterpret_cast<Head*>(words_.data()); }
  Tail& tail() { return *reinterpret_cast<Tail*>(words_.data() + sizeof(Head) / sizeof(uint64_t)); }

 private:
  static_assert(sizeof(Head) % sizeof(uint64_t) == 0 && sizeof(Tail) % sizeof(uint64_t) == 0);
  std::array<uint64_t, (sizeof(Head) + sizeof(Tail)) / sizeof(uint64_t)> words_{};
};

constexpr uint64_t kLargestBitmap = 1 << 28;

/** A bit for each page, in whole words of 64 bits as the kernel wants them. */
std::shared_ptr<std::vector<uint64_t>> BitmapFor(uint64_t size, uint64_t page_size) {
  const uint64_t pages = page_size == 0 ? 0 : size / page_size;
  const uint64_t words = pages / 64 + (pages % 64 != 0);
  if (words == 0 || words * sizeof(uint64_t) > kLargestBitmap) {
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "the kernel takes no bitmap of that many pages");
  }
  return std::make_shared<std::vector<uint64_t>>(words);
}

Work::Result BytesOf(std::shared_ptr<std::vector<uint64_t>> bits) {
  return [bits](Napi::Env env) -> Napi::Value {
    const size_t size = bits->size() * sizeof(uint64_t);
    Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, size);
    std::memcpy(buffer.Data(), bits->data(), size);
    return buffer;
  };
}

vfio_bitmap BitmapQuestion(uint64_t page_size, std::vector<uint64_t>& bits) {
  vfio_bitmap bitmap{};
  bitmap.pgsize = page_size;
  bitmap.size = bits.size() * sizeof(uint64_t);
  bitmap.data = reinterpret_cast<decltype(bitmap.data)>(bits.data());
  return bitmap;
}

}  // namespace

void DefineDma(Napi::Object exports, Handles* handles) {
  DefineCall<Container, Map, 5>(exports, "containerMapDma", handles);
  DefineCall<Container, Unmap, 3>(exports, "containerUnmapDma", handles);
}

Napi::Value MapDma(const Napi::CallbackInfo& info, const SharedFd& container) {
  const Napi::Env env = info.Env();
  const std::shared_ptr<Handles>& handles = env.GetInstanceData<Addon>()->handles;
  const napi_value arguments[] = {info[0], info[1], info[2], info[3], info[4]};
  const SharedMapping memory = handles->Share<Memory>(env, arguments[0]);
  const vfio_iommu_type1_dma_map question = MapQuestion(env, *memory, arguments);
  // The memory is held as long as the kernel works on it.
  return Work::Start(env, "vfio:mapDma", [container, memory, question]() mutable {
    Ioctl(*container, VFIO_REQUEST(VFIO_IOMMU_MAP_DMA), &question);
  });
}

Napi::Value UnmapDma(const Napi::CallbackInfo& info, const SharedFd& container) {
  const napi_value arguments[] = {info[0], info[1], info[2]};
  const auto question = std::make_shared<vfio_iommu_type1_dma_unmap>(UnmapQuestion(info.Env(), arguments));
  return Work::Start(
      info.Env(), "vfio:unmapDma",
      [container, question] { Ioctl(*container, VFIO_REQUEST(VFIO_IOMMU_UNMAP_DMA), question.get()); },
      [question](Napi::Env env) -> Napi::Value { return Napi::BigInt::New(env, uint64_t{question->size}); });
}

Napi::Value LogDirtyPages(const Napi::CallbackInfo& info, const SharedFd& container) {
  vfio_iommu_type1_dirty_bitmap question{};
  question.argsz = sizeof question;
  question.flags = Uint32Argument(info, 0, "flags");
  if (question.flags & VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP) {
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "this call has no room for a bitmap");
  }
  return Work::Start(info.Env(), "vfio:logDirtyPages", [container, question]() mutable {
    Ioctl(*container, VFIO_REQUEST(VFIO_IOMMU_DIRTY_PAGES), &question);
  });
}

Napi::Value DirtyBitmap(const Napi::CallbackInfo& info, const SharedFd& container) {
  WithTail<vfio_iommu_type1_dirty_bitmap, vfio_iommu_type1_dirty_bitmap_get> question;
  question.head().flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
  question.tail().iova = CheckedUint64(info.Env(), info[0], "iova");
  question.tail().size = CheckedUint64(info.Env(), info[1], "size");
  const uint64_t page_size = CheckedUint64(info.Env(), info[2], "pageSize");
  const auto bits = BitmapFor(question.tail().size, page_size);
  question.tail().bitmap = BitmapQuestion(page_size, *bits);
  return Work::Start(
      info.Env(), "vfio:dirtyBitmap",
      [container, bits, question]() mutable {
        Ioctl(*container, VFIO_REQUEST(VFIO_IOMMU_DIRTY_PAGES), &question.head());
      },
      BytesOf(bits));
}

Napi::Value UnmapDirty(const Napi::CallbackInfo& info, const SharedFd& container) {
  WithTail<vfio_iommu_type1_dma_unmap, vfio_bitmap> question;
  question.head().flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
  question.head().iova = CheckedUint64(info.Env(), info[0], "iova");
  question.head().size = CheckedUint64(info.Env(), info[1], "size");
  const uint64_t page_size = CheckedUint64(info.Env(), info[2], "pageSize");
  const auto bits = BitmapFor(question.head().size, page_size);
  question.tail() = BitmapQuestion(page_size, *bits);
  return Work::Start(
      info.Env(), "vfio:unmapDma",
      [container, bits, question]() mutable {
        Ioctl(*container, VFIO_REQUEST(VFIO_IOMMU_UNMAP_DMA), &question.head());
      },
      BytesOf(bits));
}

}  // namespace vfio
