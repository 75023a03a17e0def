#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <new>

namespace vfio {

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

// Has the pages of memory that is about to be written made at once. Each that is first touched alone is an exception, which
// under a hypervisor takes ten times as long as the page. A kernel before 5.14 does not know the advice, and nothing is lost.
inline void Populate(void* memory, size_t size) {
  static const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t from = (reinterpret_cast<uintptr_t>(memory) + page - 1) & ~(page - 1);
  const uintptr_t to = (reinterpret_cast<uintptr_t>(memory) + size) & ~(page - 1);
  if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_POPULATE_WRITE);
}

// For containers that are filled to the end.
template <typename T>
struct Populated {
  using value_type = T;

  Populated() = default;
  template <typename U>
  Populated(const Populated<U>&) {}

  T* allocate(size_t count) {
    T* memory = static_cast<T*>(::operator new(count * sizeof(T)));
    if (count * sizeof(T) >= kWorthACall) Populate(memory, count * sizeof(T));
    return memory;
  }
  void deallocate(T* memory, size_t) { ::operator delete(memory); }

  friend bool operator==(const Populated&, const Populated&) { return true; }
  friend bool operator!=(const Populated&, const Populated&) { return false; }

 private:
  // From here on the C library takes new memory from the kernel, in bytes.
  static constexpr size_t kWorthACall = 0x20000;
};

}  // namespace vfio
