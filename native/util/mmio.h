#pragma once

#include <endian.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vfio::mmio {

// PCI is little-endian, whatever the processor is.
inline uint8_t ToPci(uint8_t value) {
  return value;
}
inline uint16_t ToPci(uint16_t value) {
  return htole16(value);
}
inline uint32_t ToPci(uint32_t value) {
  return htole32(value);
}
inline uint64_t ToPci(uint64_t value) {
  return htole64(value);
}

/** One access of exactly this width; `where` is aligned to it. */
template <typename T>
void Store(void* where, T value) {
  *static_cast<volatile T*>(where) = ToPci(value);
}

/** One after another with 32 bits each, as every device takes them; with 8 before and after. */
inline void CopyFrom(void* into, const char* from, size_t size) {
  char* to = static_cast<char*>(into);
  for (; size > 0 && reinterpret_cast<uintptr_t>(from) % 4 != 0; size--) {
    *to++ = *static_cast<const volatile char*>(from++);
  }
  for (; size >= 4; size -= 4, from += 4, to += 4) {
    const uint32_t word = *reinterpret_cast<const volatile uint32_t*>(from);
    std::memcpy(to, &word, sizeof word);
  }
  for (; size > 0; size--) *to++ = *static_cast<const volatile char*>(from++);
}

inline void CopyTo(char* into, const void* source, size_t size) {
  const char* from = static_cast<const char*>(source);
  for (; size > 0 && reinterpret_cast<uintptr_t>(into) % 4 != 0; size--) {
    *static_cast<volatile char*>(into++) = *from++;
  }
  for (; size >= 4; size -= 4, from += 4, into += 4) {
    uint32_t word;
    std::memcpy(&word, from, sizeof word);
    *reinterpret_cast<volatile uint32_t*>(into) = word;
  }
  for (; size > 0; size--) *static_cast<volatile char*>(into++) = *from++;
}

}  // namespace vfio::mmio
