#include "util/bitmap.h"

#include <cstring>
#include <utility>

#include "util/arguments.h"

namespace vfio {
namespace {

// The pages of 32 TiB at 4 KiB each.
constexpr uint64_t kMostBits = uint64_t{1} << 33;

}  // namespace

Bitmap BitmapOf(Napi::Env env, uint64_t size, uint64_t page_size) {
  if (page_size == 0 || (page_size & (page_size - 1)) != 0)
    BadArgument(env, "pageSize must be a power of two");
  if (size == 0 || (size - 1) / page_size >= kMostBits) {
    BadArgument(env, "the size must be from 1 byte to 2^33 pages");
  }
  return std::make_shared<std::vector<uint64_t>>((size - 1) / page_size / 64 + 1);
}

Work::Result BytesOf(Bitmap bitmap) {
  return [bitmap = std::move(bitmap)](Napi::Env env) -> Napi::Value {
    const size_t size = bitmap->size() * sizeof(uint64_t);
    Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, size);
    std::memcpy(buffer.Data(), bitmap->data(), size);
    return buffer;
  };
}

}  // namespace vfio
