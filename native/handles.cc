#include "handles.h"

#include <utility>

namespace vfio {
namespace {

// Together 31 bits, so that a number is a small integer in JavaScript.
constexpr uint32_t kIndexBits = 18;
constexpr uint32_t kGenerations = 1 << 13;
constexpr uint32_t kMostHandles = 1 << kIndexBits;

constexpr uint32_t IndexOf(uint32_t id) {
  return id & (kMostHandles - 1);
}
constexpr uint32_t GenerationOf(uint32_t id) {
  return id >> kIndexBits;
}

}  // namespace

uint32_t Handles::Add(const napi_type_tag& kind, Resource resource) {
  if (free_.empty()) {
    if (entries_.size() == kMostHandles) throw std::length_error("too many objects of VFIO in this thread");
    free_.push_back(static_cast<uint32_t>(entries_.size()));
    entries_.emplace_back();
  }
  const uint32_t index = free_.back();
  free_.pop_back();
  Entry& entry = entries_[index];
  entry.kind = &kind;
  entry.resource = std::move(resource);
  return entry.generation << kIndexBits | index;
}

void Handles::Remove(uint32_t id) {
  Entry& entry = entries_[IndexOf(id)];
  entry.kind = nullptr;
  entry.generation = (entry.generation + 1) % kGenerations;
  entry.resource.reset();
  free_.push_back(IndexOf(id));
}

Resource& Handles::At(uint32_t id, const napi_type_tag& kind) {
  const uint32_t index = IndexOf(id);
  if (index >= entries_.size() || entries_[index].kind != &kind ||
      entries_[index].generation != GenerationOf(id)) {
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "there is no such object");
  }
  return entries_[index].resource;
}

const Resource& Handles::OpenAt(uint32_t id, const napi_type_tag& kind) {
  const Resource& resource = At(id, kind);
  if (!resource) throw Refusal("ERR_VFIO_CLOSED", "this object is closed");
  return resource;
}

void* Handles::Remember(const QuickCall& call) {
  remembered_.push_back(std::unique_ptr<Remembered>(new Remembered{*this, call}));
  return remembered_.back().get();
}

napi_value Handles::Call(napi_env env, napi_callback_info info) {
  return Napi::details::WrapCallback(env, [&]() -> napi_value {
    size_t count = kMostArguments;
    napi_value arguments[kMostArguments];
    void* data;
    napi_get_cb_info(env, info, &count, arguments, nullptr, &data);
    const auto& [handles, call] = *static_cast<const Remembered*>(data);
    try {
      const Resource& owned = handles.OpenAt(Number(env, arguments[0]), *call.kind);
      return call.call(env, owned.get(), arguments + 1, handles);
    } catch (...) {
      throw ToError(env);
    }
  });
}

void DefineCall(Napi::Object exports, const char* name, const QuickCall& call, Handles* handles) {
  const Napi::Env env = exports.Env();
  napi_value function;
  NAPI_THROW_IF_FAILED_VOID(env, napi_create_function(env, name, NAPI_AUTO_LENGTH, Handles::Call,
                                                      handles->Remember(call), &function));
  exports.Set(name, Napi::Value(env, function));
}

}  // namespace vfio
