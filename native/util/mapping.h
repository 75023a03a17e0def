#pragma once

#include <napi.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "util/fd.h"

namespace vfio {

/**
 * A part of a file mapped into this process. Where an access finds nothing behind it (SIGBUS), it depends on
 * what stands behind: a device reads ones, as on a PCI bus, and `lost` tells; memory ends the process with a
 * sentence, because a page of our own would differ from the one that devices have. The addresses stay taken
 * until the last owner is gone: an array buffer may still point at them.
 */
class Mapping {
 public:
  enum class Behind { kDevice, kMemory };

  /** `alignment` is that of its address, a power of two; what is not above the system's page is had anyway.
   */
  Mapping(const SharedFd& file, Behind behind, const char* request, int64_t position, size_t size,
          size_t alignment = 0);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  char* data() const { return data_; }
  size_t size() const { return size_; }
  /** Did an access find nothing, since it was mapped or restored? */
  bool lost() const;
  /** Maps the file anew where something was lost. Where that fails, all stays as it is, lost too. */
  void Restore() const;
  /** Takes the space of the file that it needs and has not yet, so that no later access finds nothing. */
  void Reserve() const;
  /** Lets the file go; the addresses then have memory of their own, which reads zero. */
  void Release() const noexcept;

  /** Of this process: how often an access found nothing behind a device, and how many of these are open. */
  struct Counts {
    std::atomic<uint32_t> losses{0};
    std::atomic<uint32_t> open{0};
  };
  static Counts& CountsOfProcess();
  /** Takes SIGBUS back, after somebody has given it another handler, who gets what is not ours. */
  static void HandleBusErrors();

 private:
  struct Slot;
  char* MapFile(size_t alignment) const;
  void Forget() const;

  const std::weak_ptr<const Fd> file_;
  const Behind behind_;
  const char* const request_;
  const int64_t position_;
  const size_t size_;
  char* const data_;
  mutable Slot* slot_ = nullptr;
  /** How many of the faults were mended. */
  mutable std::atomic<uint32_t> restored_{0};
};

using SharedMapping = std::shared_ptr<const Mapping>;

}  // namespace vfio
