#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "util/work.h"

namespace vfio {

/** Dirty pages: a bit for each, in words of 64 bits as the kernel writes them. */
using Bitmap = std::shared_ptr<std::vector<uint64_t>>;

/** The pages of 32 TiB at 4 KiB each. */
constexpr uint64_t kMostPages = uint64_t{1} << 33;

/**
 * One for all pages of `size` bytes. The kernel writes as many bits as size and page size say, so that what it might count
 * differently is refused.
 */
Bitmap BitmapOf(Napi::Env env, uint64_t size, uint64_t page_size, uint64_t most = kMostPages);

/** A copy of it as an ArrayBuffer. */
Work::Result BytesOf(Bitmap bitmap);

}  // namespace vfio
