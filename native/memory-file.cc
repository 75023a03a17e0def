#include "memory-file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include <cerrno>

#include "memory.h"

namespace vfio {
namespace {

constexpr const char* kMemory = "memory";
constexpr const char* kHugePages = "hugepages";
// HUGETLBFS_MAGIC of <linux/magic.h>.
constexpr auto kHugePageFiles = 0x958458f6;

int64_t SizeArgument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  const int64_t size = CheckedInt64(info, index, name);
  if (size < 0) BadArgument(info.Env(), std::string(name) + " must not be negative");
  return size;
}

}  // namespace

Napi::FunctionReference MemoryFile::Define(Napi::Env env) {
  return DefineFdClass(env, {
                                DefineStatic<&MemoryFile::Create>("create"),
                                DefineStatic<&MemoryFile::Duplicate>("duplicate"),
                                DefineMethod<&MemoryFile::Seal>("seal"),
                                DefineMethod<&MemoryFile::Map>("map"),
                            });
}

// The second argument is the binary logarithm of the size of its huge pages, 0 for ordinary ones.
Napi::Value MemoryFile::Create(const Napi::CallbackInfo& info) {
  const int64_t size = SizeArgument(info, 0, "size");
  const uint32_t huge = Uint32Argument(info, 1, "huge");
  if (huge > 63) BadArgument(info.Env(), "there are no such huge pages");
  const unsigned flags =
      MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge == 0 ? 0 : MFD_HUGETLB | huge << MAP_HUGE_SHIFT);
  const char* const request = huge == 0 ? kMemory : kHugePages;
  const int number = ::memfd_create("vfio-dma", flags);
  if (number < 0) throw SystemFailure(errno, "memfd_create", request, "memory");
  const auto file = std::make_shared<const Fd>(number, "memory");
  if (::ftruncate(number, size) < 0) throw SystemFailure(errno, "ftruncate", request, "memory");
  // Whoever gets the descriptor cannot take pages away from under a device.
  ::fcntl(number, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  return Adopt(info.Env(), file);
}

Napi::Value MemoryFile::Duplicate(const Napi::CallbackInfo& info) {
  return Adopt(info.Env(), vfio::Duplicate(info, kMemory));
}

// Whoever has the file cannot take pages away from under a device any more. False where it has no seals.
Napi::Value MemoryFile::Seal(const Napi::CallbackInfo& info) {
  const int number = fd()->number();
  const bool is_sealed =
      ::fcntl(number, F_ADD_SEALS, F_SEAL_SHRINK) == 0 || (::fcntl(number, F_GET_SEALS) & F_SEAL_SHRINK) != 0;
  return Napi::Boolean::New(info.Env(), is_sealed);
}

Napi::Value MemoryFile::Map(const Napi::CallbackInfo& info) {
  const int64_t position = SizeArgument(info, 0, "position");
  const int64_t size = SizeArgument(info, 1, "size");
  const uint32_t alignment = Uint32Argument(info, 2, "alignment");
  if (size == 0) BadArgument(info.Env(), "size must be above 0");
  if ((alignment & (alignment - 1)) != 0) BadArgument(info.Env(), "alignment must be a power of two");
  const SharedFd file = fd();
  struct statfs system;
  const bool is_huge =
      ::fstatfs(file->number(), &system) == 0 && static_cast<uint32_t>(system.f_type) == kHugePageFiles;
  const int64_t page = is_huge ? system.f_bsize : 1;
  // The kernel would round a size up here, and not where it is unmapped.
  if (position % page != 0 || size % page != 0) {
    BadArgument(info.Env(), "offset and size must be multiples of " + std::to_string(page) +
                                ", the size of the huge pages of this file");
  }
  // Huge pages have places of their own alignment, and no others.
  return Memory::Adopt(info.Env(), std::make_shared<const Mapping>(
                                       file, Mapping::Behind::kMemory, is_huge ? kHugePages : kMemory,
                                       position, static_cast<size_t>(size), is_huge ? 0 : alignment));
}

}  // namespace vfio
