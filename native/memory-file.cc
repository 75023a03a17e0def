#include "memory-file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "memory.h"

namespace vfio {
namespace {

constexpr const char* kMemory = "memory";
constexpr const char* kHugePages = "hugepages";

int64_t SizeArgument(const Napi::CallbackInfo& info, size_t index, const char* name) {
  const int64_t size = CheckedInt64(info.Env(), info[index], name);
  if (size < 0) BadArgument(info.Env(), std::string(name) + " must not be negative");
  return size;
}

struct stat Stat(const Fd& file) {
  struct stat status;
  if (::fstat(file.number(), &status) < 0) throw SystemFailure(errno, "fstat", kMemory, file.path());
  return status;
}

}  // namespace

Napi::FunctionReference MemoryFile::Define(Napi::Env env) {
  return DefineFdClass(env, {
                                DefineStatic<&MemoryFile::Create>("create"),
                                DefineStatic<&MemoryFile::Duplicate>("duplicate"),
                                DefineMethod<&MemoryFile::Number>("number"),
                                DefineMethod<&MemoryFile::Size>("size"),
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
  const uint32_t given = Uint32Argument(info, 0, "descriptor");
  const int number = ::fcntl(static_cast<int>(given), F_DUPFD_CLOEXEC, 0);
  const std::string path = "descriptor " + std::to_string(given);
  if (number < 0) throw SystemFailure(errno, "fcntl", kMemory, path);
  return Adopt(info.Env(), std::make_shared<const Fd>(number, path));
}

Napi::Value MemoryFile::Number(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), fd()->number());
}

Napi::Value MemoryFile::Size(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(Stat(*fd()).st_size));
}

Napi::Value MemoryFile::Map(const Napi::CallbackInfo& info) {
  const int64_t position = SizeArgument(info, 0, "position");
  const int64_t size = SizeArgument(info, 1, "size");
  if (size == 0) BadArgument(info.Env(), "size must be above 0");
  const bool huge = Stat(*fd()).st_blksize > ::sysconf(_SC_PAGESIZE);
  return Memory::Adopt(info.Env(), std::make_shared<const Mapping>(fd(), huge ? kHugePages : kMemory,
                                                                   position, static_cast<size_t>(size)));
}

}  // namespace vfio
