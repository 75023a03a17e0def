#include "util/answer.h"

#include <cstring>

namespace vfio {
namespace {

// A thousand times the longest chain seen; the kernel's own limits are far below it.
constexpr size_t kLargestAnswer = 1 << 20;

[[noreturn]] void Refuse(const char* request, const char* what, uint64_t at) {
  throw Refusal("ERR_VFIO_BAD_KERNEL_DATA", std::string(request) + ": " + what + " " + std::to_string(at));
}

}  // namespace

void Answer::Grow(size_t wanted, const char* request) {
  if (wanted > kLargestAnswer) Refuse(request, "the kernel asks for a buffer of an impossible size:", wanted);
  grown_.assign((wanted + sizeof(uint64_t) - 1) / sizeof(uint64_t), 0);
}

napi_value Answer::Copy(Napi::Env env, size_t count) {
  Napi::ArrayBuffer own = Napi::ArrayBuffer::New(env, count);
  if (count > 0) std::memcpy(own.Data(), data(), count);
  return own;
}

void GrewAgain(const char* request) {
  throw Refusal("ERR_VFIO_BAD_KERNEL_DATA", std::string(request) + ": the answer grew while it was read");
}

void CheckChain(const void* data, size_t size, size_t first, size_t fixed, const char* request) {
  size_t end = fixed;
  for (size_t at = first; at != 0;) {
    if (at < end) Refuse(request, "a capability chain runs backwards, at offset", at);
    if (at % alignof(vfio_info_cap_header) != 0)
      Refuse(request, "a capability is not aligned, at offset", at);
    if (at > size - sizeof(vfio_info_cap_header))
      Refuse(request, "a capability is outside the answer, at offset", at);
    vfio_info_cap_header header;
    std::memcpy(&header, static_cast<const char*>(data) + at, sizeof header);
    end = at + sizeof header;
    at = header.next;
  }
}

}  // namespace vfio
