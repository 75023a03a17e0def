#pragma once

#include <napi.h>

#include <cstdint>
#include <vector>

#include "uapi/vfio.h"
#include "util/arguments.h"
#include "util/ioctl.h"

namespace vfio {

/**
 * Bytes for a structure that the kernel may want to be larger than expected: those of a buffer of the caller's, where it
 * has one that is large enough. Zeroed, aligned, grown at most once.
 */
class Answer {
 public:
  Answer() : Answer(Buffer{}) {}
  VFIO_INLINE explicit Answer(const Buffer& into) : into_(into) {
    if (into.size >= sizeof own_) room_ = static_cast<uint64_t*>(into.data);
    for (size_t i = 0; i < kWords; i++) room_[i] = 0;
  }
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;

  VFIO_INLINE void* data() { return grown_.empty() ? room_ : grown_.data(); }
  VFIO_INLINE size_t size() const { return grown_.empty() ? sizeof own_ : grown_.size() * sizeof(uint64_t); }

  template <typename T>
  VFIO_INLINE T* Put(T question) {
    question.argsz = static_cast<uint32_t>(size());
    return new (data()) T(question);
  }

  /** Makes room for `wanted` bytes, or refuses a size that no kernel means. */
  void Grow(size_t wanted, const char* request);

  /** The buffer of the caller's where it has all of it, else one of its own. */
  VFIO_INLINE napi_value ToValue(Napi::Env env) {
    return data() == into_.data ? into_.value : Copy(env, size());
  }
  /** The first `count` bytes in a buffer of their own. */
  napi_value Copy(Napi::Env env, size_t count);

 private:
  static constexpr size_t kWords = 16;

  const Buffer into_;
  uint64_t own_[kWords];
  uint64_t* room_ = own_;
  std::vector<uint64_t> grown_;
};

/** Refuses a capability chain that leaves the buffer, overlaps itself, runs backwards or is not aligned. */
void CheckChain(const void* data, size_t size, size_t first, size_t fixed, const char* request);

[[noreturn]] void GrewAgain(const char* request);

/** Asks for a structure that begins with argsz, once more when the kernel wants a larger one. */
template <typename T>
VFIO_INLINE T* Ask(const Fd& fd, const Request& request, const T& question, Answer& answer) {
  T* info = answer.Put(question);
  Ioctl(fd, request, info);
  if (info->argsz <= answer.size()) return info;
  answer.Grow(info->argsz, request.name);
  info = answer.Put(question);
  Ioctl(fd, request, info);
  if (info->argsz <= answer.size()) return info;
  GrewAgain(request.name);
}

/** The same for a structure that may end in a capability chain: checked here, read in TypeScript. */
template <typename T>
VFIO_INLINE const T* Ask(const Fd& fd, const Request& request, const T& question, uint32_t caps_flag, Answer& answer) {
  const T* info = Ask(fd, request, question, answer);
  if (info->flags & caps_flag) CheckChain(info, answer.size(), info->cap_offset, sizeof(T), request.name);
  return info;
}

}  // namespace vfio
