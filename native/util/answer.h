#pragma once

#include <napi.h>

#include <array>
#include <cstdint>
#include <vector>

#include "uapi/vfio.h"
#include "util/arguments.h"
#include "util/ioctl.h"

namespace vfio {

/** Bytes for a structure that the kernel may want to be larger than expected. Zeroed, aligned, grown at most
 * once. */
class Answer {
 public:
  void* data() { return grown_.empty() ? inline_.data() : grown_.data(); }
  size_t size() const { return grown_.empty() ? sizeof inline_ : grown_.size() * sizeof(uint64_t); }

  template <typename T>
  T* Put(T question) {
    question.argsz = static_cast<uint32_t>(size());
    return new (data()) T(question);
  }

  /** Makes room for `wanted` bytes, or refuses a size that no kernel means. */
  void Grow(size_t wanted, const char* request);

  /** The first `count` bytes in `into` where they fit, in a buffer of their own where they do not. */
  napi_value CopyTo(Napi::Env env, const Buffer& into, size_t count);
  napi_value CopyTo(Napi::Env env, const Buffer& into) { return CopyTo(env, into, size()); }

 private:
  std::array<uint64_t, 16> inline_{};
  std::vector<uint64_t> grown_;
};

/** Refuses a capability chain that leaves the buffer, overlaps itself, runs backwards or is not aligned. */
void CheckChain(const void* data, size_t size, size_t first, size_t fixed, const char* request);

/** Asks for a structure that begins with argsz, once more when the kernel wants a larger one. */
template <typename T>
T* Ask(const Fd& fd, const Request& request, const T& question, Answer& answer) {
  T* info = answer.Put(question);
  Ioctl(fd, request, info);
  if (info->argsz <= answer.size()) return info;
  answer.Grow(info->argsz, request.name);
  info = answer.Put(question);
  Ioctl(fd, request, info);
  if (info->argsz <= answer.size()) return info;
  throw Refusal("ERR_VFIO_BAD_KERNEL_DATA",
                std::string(request.name) + ": the answer grew while it was read");
}

/** The same for a structure that may end in a capability chain: checked here, read in TypeScript. */
template <typename T>
const T* Ask(const Fd& fd, const Request& request, const T& question, uint32_t caps_flag, Answer& answer) {
  const T* info = Ask(fd, request, question, answer);
  if (info->flags & caps_flag) CheckChain(info, answer.size(), info->cap_offset, sizeof(T), request.name);
  return info;
}

}  // namespace vfio
