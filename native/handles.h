#pragma once

#include <napi.h>

#include <cstdint>
#include <vector>

#include "util/failure.h"
#include "util/fd.h"

namespace vfio {

/**
 * The open descriptors of one environment by small numbers, for calls that are made often: finding the object
 * behind `this` would cost more than all the rest of such a call. Unlike a descriptor's, a number that was
 * given up does not come back soon, and it is good for one kind of object only.
 */
class Handles {
 public:
  uint32_t Add(const napi_type_tag& kind, SharedFd fd);
  void Remove(uint32_t id);

  /** The descriptor, empty once it was closed, or ERR_VFIO_BAD_ARGUMENT where there is no such object. */
  SharedFd& At(uint32_t id, const napi_type_tag& kind);
  /** The open descriptor, or ERR_VFIO_CLOSED. */
  const SharedFd& OpenAt(uint32_t id, const napi_type_tag& kind);

  /** The memory of an ArrayBuffer for the answers to quick calls: asking for it at each call would take long.
   */
  void* answers = nullptr;

 private:
  struct Entry {
    const napi_type_tag* kind = nullptr;
    uint32_t generation = 0;
    SharedFd fd;
  };

  std::vector<Entry> entries_;
  std::vector<uint32_t> free_;
};

/** A call on an open descriptor, with one argument after the number; a structure goes into `answers`. */
using Quick = napi_value (*)(Napi::Env env, const Fd& fd, const napi_value* arguments, void* answers);

void DefineFunction(Napi::Object exports, const char* name, napi_callback callback, Handles* handles);

/** The callback of a function that has the table as its data, and the number of an object of kind `T` first.
 */
template <typename T, Quick quick>
napi_value CallQuick(napi_env env, napi_callback_info info) {
  return Napi::details::WrapCallback(env, [&]() -> napi_value {
    size_t count = 2;
    napi_value arguments[2];
    void* data;
    napi_get_cb_info(env, info, &count, arguments, nullptr, &data);
    Handles* handles = static_cast<Handles*>(data);
    try {
      uint32_t id;
      if (napi_get_value_uint32(env, arguments[0], &id) != napi_ok) {
        throw Refusal("ERR_VFIO_BAD_ARGUMENT", "expected the number of an object");
      }
      return quick(env, *handles->OpenAt(id, T::kTag), arguments + 1, handles->answers);
    } catch (...) {
      throw ToError(env);
    }
  });
}

}  // namespace vfio
