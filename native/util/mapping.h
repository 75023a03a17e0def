#pragma once

#include <napi.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "util/fd.h"

namespace vfio {

/**
 * A part of a file mapped into this process. Where an access finds nothing behind it (SIGBUS: the memory
 * decode of a device is off, a file was cut short), it reads ones, as a PCI bus does, and `lost` tells. The
 * addresses stay taken until the last owner is gone: an array buffer may still point at them.
 */
class Mapping {
 public:
  Mapping(const SharedFd& file, const char* request, int64_t position, size_t size);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  char* data() const { return data_; }
  size_t size() const { return size_; }
  bool lost() const;
  /** Maps the file anew where something was lost. */
  void Restore() const;
  /** Lets the file go; the addresses then have memory of their own, which reads zero. */
  void Release() const;

  /** How often an access of this process found nothing behind a mapping: one word for all of them. */
  static std::atomic<uint32_t>& Losses();

 private:
  struct Slot;
  void MapAt(void* where, int flags) const;

  const std::weak_ptr<const Fd> file_;
  const char* const request_;
  const int64_t position_;
  const size_t size_;
  char* data_ = nullptr;
  Slot* slot_ = nullptr;
};

using SharedMapping = std::shared_ptr<const Mapping>;

}  // namespace vfio
