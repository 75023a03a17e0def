#include "util/bitmap.h"

#include <cstring>
#include <string>
#include <utility>

#include "util/arguments.h"

namespace vfio {

Bitmap BitmapOf(Napi::Env env, uint64_t size, uint64_t page_size, uint64_t most) {
  if (page_size == 0 || (page_size & (page_size - 1)) != 0)
    BadArgument(env, "pageSize must be a power of two");
  if (size < page_size || (size - 1) / page_size >= most) {
    BadArgument(env, "the size must be from one page to " + std::to_string(most) + " pages");
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
