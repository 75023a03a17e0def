#include "dma.h"

#include <array>
#include <type_traits>
#include <vector>

#include "container.h"
#include "memory.h"
#include "uapi/vfio.h"
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
  if (offset < 0 || size < 0 || static_cast<uint64_t>(offset) > memory.size() ||
      static_cast<uint64_t>(size) > memory.size() - static_cast<uint64_t>(offset)) {
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "outside of the memory");
  }
  vfio_iommu_type1_dma_map question{};
  question.argsz = sizeof question;
  question.flags = flags;
  question.vaddr = reinterpret_cast<uintptr_t>(memory.data()) + static_cast<uint64_t>(offset);
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

// An offset or size: an integer that a double holds exactly, or -1, which is neither.
int64_t WholeNumber(double number) {
  constexpr double kLargest = 9007199254740991;
  return number >= 0 && number <= kLargest ? static_cast<int64_t>(number) : -1;
}

// In the page: memory, flags, offset and size as doubles, IOVA.
void Map(const Fd& container, Page& page, Handles& handles) {
  vfio_iommu_type1_dma_map question =
      MapQuestion(handles.GetById<Memory>(page.words[1]), WholeNumber(page.doubles[2]),
                  WholeNumber(page.doubles[3]), page.longs[4], page.words[2]);
  Ioctl(container, VFIO_REQUEST(VFIO_IOMMU_MAP_DMA), &question);
}

// In the page: flags, IOVA, size; what was unmapped becomes the first long.
void Unmap(const Fd& container, Page& page, Handles&) {
  UnmapQuestion question = Unmapping(page.longs[1], page.longs[2], page.words[1]);
  Ioctl(container, VFIO_REQUEST(VFIO_IOMMU_UNMAP_DMA), &question.head());
  page.longs[0] = question.head().size;
}

constexpr uint64_t kLargestBitmap = 1 << 28;

/** A bit for each page, in whole words of 64 bits as the kernel wants them. */
Bitmap BitmapFor(uint64_t size, uint64_t page_size) {
  const uint64_t pages = page_size == 0 ? 0 : size / page_size;
  const uint64_t words = pages / 64 + (pages % 64 != 0);
  if (words == 0 || words * sizeof(uint64_t) > kLargestBitmap) {
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "the kernel takes no bitmap of that many pages");
  }
  return std::make_shared<std::vector<uint64_t>>(words);
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
  DefinePageCall<Container, Map>(exports, "containerMapDma", handles);
  DefinePageCall<Container, Unmap>(exports, "containerUnmapDma", handles);
}

Napi::Value MapDma(const Napi::CallbackInfo& info, const SharedFd& container) {
  const Napi::Env env = info.Env();
  const std::shared_ptr<Handles>& handles = env.GetInstanceData<Addon>()->handles;
  const SharedMapping memory = handles->Share<Memory>(env, info[0]);
  const vfio_iommu_type1_dma_map question =
      MapQuestion(*memory, CheckedInt64(env, info[1], "offset"), CheckedInt64(env, info[2], "size"),
                  CheckedUint64(env, info[3], "iova"), CheckedUint32(env, info[4], "flags"));
  // The memory is held as long as the kernel works on it.
  return Work::Start(env, "vfio:mapDma", [container, memory, question]() mutable {
    Ioctl(*container, VFIO_REQUEST(VFIO_IOMMU_MAP_DMA), &question);
  });
}

Napi::Value UnmapDma(const Napi::CallbackInfo& info, const SharedFd& container) {
  const Napi::Env env = info.Env();
  const auto question = std::make_shared<UnmapQuestion>(Unmapping(CheckedUint64(env, info[0], "iova"),
                                                                  CheckedUint64(env, info[1], "size"),
                                                                  CheckedUint32(env, info[2], "flags")));
  return Work::Start(
      info.Env(), "vfio:unmapDma",
      [container, question] { Ioctl(*container, VFIO_REQUEST(VFIO_IOMMU_UNMAP_DMA), &question->head()); },
      [question](Napi::Env env) -> Napi::Value {
        return Napi::BigInt::New(env, uint64_t{question->head().size});
      });
}

Napi::Value LogDirtyPages(const Napi::CallbackInfo& info, const SharedFd& container) {
  DmaQuestion<vfio_iommu_type1_dirty_bitmap> question;
  question.head().flags = Uint32Argument(info, 0, "flags");
  if (question.head().flags & VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP) {
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "this call has no room for a bitmap");
  }
  return Work::Start(info.Env(), "vfio:logDirtyPages", [container, question]() mutable {
    Ioctl(*container, VFIO_REQUEST(VFIO_IOMMU_DIRTY_PAGES), &question.head());
  });
}

Napi::Value DirtyBitmap(const Napi::CallbackInfo& info, const SharedFd& container) {
  DmaQuestion<vfio_iommu_type1_dirty_bitmap, vfio_iommu_type1_dirty_bitmap_get> question;
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
  DmaQuestion<vfio_iommu_type1_dma_unmap, vfio_bitmap> question;
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
