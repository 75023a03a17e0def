#pragma once

#include <napi.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "util/failure.h"
#include "util/inline.h"

namespace vfio {

/** Of a quick call, with the number of its object. */
constexpr size_t kMostArguments = 7;

struct QuickCall;

/** The native side of a JavaScript object: a descriptor, or memory. */
using Resource = std::shared_ptr<const void>;

/**
 * The open resources of one environment by small numbers, for calls that are made often: finding the object
 * behind `this` would cost more than all the rest of such a call. Unlike a descriptor's, a number that was
 * given up does not come back soon, and it is good for one kind of object only.
 */
class Handles {
 public:
  uint32_t Add(const napi_type_tag& kind, Resource resource);
  /** Takes the open resources of a kind out: their objects are closed from then on. */
  std::vector<Resource> TakeAll(const napi_type_tag& kind);
  /** The number is free again: when the object is closed, whenever its memory is collected. */
  Resource Remove(uint32_t id);

  /** The open resource; ERR_VFIO_CLOSED, or ERR_VFIO_BAD_ARGUMENT where there was no such object. */
  VFIO_INLINE const Resource& OpenAt(uint32_t id, const napi_type_tag& kind) {
    const uint32_t index = IndexOf(id);
    if (index < entries_.size()) {
      const Entry& entry = entries_[index];
      if (entry.kind == &kind && entry.generation == GenerationOf(id) && entry.resource) return entry.resource;
    }
    RefuseAt(id, kind);
  }

  /** The same by what JavaScript gave, as what objects of kind `T` stand for. */
  template <typename T>
  VFIO_INLINE const typename T::Owned& Get(napi_env env, napi_value number) {
    return *static_cast<const typename T::Owned*>(OpenAt(Number(env, number), T::kTag).get());
  }
  /** For work that goes on after the call. */
  template <typename T>
  std::shared_ptr<const typename T::Owned> Share(napi_env env, napi_value number) {
    return std::static_pointer_cast<const typename T::Owned>(OpenAt(Number(env, number), T::kTag));
  }

  /** The callback of a quick call that takes as many arguments, whose data is what Remember() gave. */
  static napi_callback CallbackFor(size_t arguments);
  void* Remember(const QuickCall& call);

 private:
  // Together 31 bits, so that a number is a small integer in JavaScript.
  static constexpr uint32_t kIndexBits = 18;
  static constexpr uint32_t kGenerations = 1 << 13;
  static constexpr uint32_t kMostHandles = 1 << kIndexBits;
  // Times the generations it is how many objects come and go before a number is used a second time.
  static constexpr size_t kResting = 4096;

  static constexpr uint32_t IndexOf(uint32_t id) { return id & (kMostHandles - 1); }
  static constexpr uint32_t GenerationOf(uint32_t id) { return id >> kIndexBits; }

  VFIO_INLINE static uint32_t Number(napi_env env, napi_value value) {
    uint32_t number;
    if (napi_get_value_uint32(env, value, &number) == napi_ok) return number;
    RefuseNumber();
  }

  /** Why there is nothing open. */
  [[noreturn]] void RefuseAt(uint32_t id, const napi_type_tag& kind) const;
  [[noreturn]] static void RefuseNumber();

  template <size_t count>
  static napi_value Call(napi_env env, napi_callback_info info);

  struct Entry {
    const napi_type_tag* kind = nullptr;
    uint32_t generation = 0;
    Resource resource;
  };

  struct Remembered {
    Handles& handles;
    const QuickCall& call;
  };

  std::vector<std::unique_ptr<Remembered>> remembered_;
  std::vector<Entry> entries_;
  std::deque<uint32_t> free_;
};

/** The arguments of a quick call after the number of its object. */
using Arguments = const napi_value*;

/** A call on what an open object of kind `T` stands for. */
template <typename T>
using Quick = napi_value (*)(Napi::Env env, const typename T::Owned& owned, Arguments arguments,
                             Handles& handles);

/** One that the table knows, for any kind. */
struct QuickCall {
  const napi_type_tag* kind;
  size_t arguments;
  napi_value (*call)(Napi::Env env, const void* owned, Arguments arguments, Handles& handles);
};

void DefineCall(Napi::Object exports, const char* name, const QuickCall& call, Handles* handles);

/** Exports a function that takes the number of an object of kind `T` and `kArguments` more. */
template <typename T, Quick<T> quick, size_t kArguments>
void DefineCall(Napi::Object exports, const char* name, Handles* handles) {
  static_assert(kArguments < kMostArguments);
  static constexpr QuickCall kCall{
      &T::kTag, kArguments, [](Napi::Env env, const void* owned, Arguments arguments, Handles& handles) {
        return quick(env, *static_cast<const typename T::Owned*>(owned), arguments, handles);
      }};
  DefineCall(exports, name, kCall, handles);
}

}  // namespace vfio
