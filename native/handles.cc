#include "handles.h"

#include <utility>

namespace vfio {

uint32_t Handles::Add(const napi_type_tag& kind, Resource resource) {
  if (free_.size() < kResting && entries_.size() < kMostHandles) {
    free_.push_front(static_cast<uint32_t>(entries_.size()));
    entries_.emplace_back();
  }
  if (free_.empty()) {
    throw Refusal("ERR_VFIO_TOO_MANY", "this thread has " + std::to_string(kMostHandles) +
                                           " objects of VFIO open, and no more at a time: close some");
  }
  const uint32_t index = free_.front();
  free_.pop_front();
  Entry& entry = entries_[index];
  entry.kind = &kind;
  entry.resource = std::move(resource);
  return entry.generation << kIndexBits | index;
}

Resource Handles::Remove(uint32_t id) {
  Entry& entry = entries_[IndexOf(id)];
  entry.kind = nullptr;
  entry.generation = (entry.generation + 1) % kGenerations;
  free_.push_back(IndexOf(id));
  return std::move(entry.resource);
}

std::vector<Resource> Handles::TakeAll(const napi_type_tag& kind) {
  std::vector<Resource> taken;
  for (Entry& entry : entries_) {
    if (entry.kind == &kind && entry.resource) taken.push_back(std::move(entry.resource));
  }
  return taken;
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

void DefineFunction(Napi::Object exports, const char* name, napi_callback callback, void* data) {
  const Napi::Env env = exports.Env();
  napi_value function;
  NAPI_THROW_IF_FAILED_VOID(env,
                            napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, data, &function));
  exports.Set(name, Napi::Value(env, function));
}

void DefineCall(Napi::Object exports, const char* name, const QuickCall& call, Handles* handles) {
  DefineFunction(exports, name, Handles::Call, handles->Remember(call));
}

}  // namespace vfio
