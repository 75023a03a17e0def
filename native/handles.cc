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

void Handles::RefuseAt(uint32_t id, const napi_type_tag& kind) const {
  const uint32_t index = IndexOf(id);
  if (index < entries_.size()) {
    const Entry& entry = entries_[index];
    if (entry.generation != GenerationOf(id) || entry.kind == &kind)
      throw Refusal("ERR_VFIO_CLOSED", "this object is closed");
  }
  throw Refusal("ERR_VFIO_BAD_ARGUMENT", "there is no such object");
}

void Handles::RefuseNumber() {
  throw Refusal("ERR_VFIO_BAD_ARGUMENT", "expected the number of an object");
}

void* Handles::Remember(const QuickCall& call) {
  remembered_.push_back(std::unique_ptr<Remembered>(new Remembered{*this, call}));
  return remembered_.back().get();
}

template <size_t count>
napi_value Handles::Call(napi_env env, napi_callback_info info) {
  size_t given = count;
  napi_value arguments[count];
  void* data;
  napi_get_cb_info(env, info, &given, arguments, nullptr, &data);
  const auto& [handles, call] = *static_cast<const Remembered*>(data);
  try {
    const Resource& owned = handles.OpenAt(Number(env, arguments[0]), *call.kind);
    return call.call(env, owned.get(), arguments + 1, handles);
  } catch (...) {
    return Throw(env);
  }
}

napi_callback Handles::CallbackFor(size_t arguments) {
  // What is put where nobody looks takes time too.
  return arguments <= 1 ? Call<2> : arguments <= 4 ? Call<5> : Call<kMostArguments>;
}

void DefineCall(Napi::Object exports, const char* name, const QuickCall& call, Handles* handles) {
  const Napi::Env env = exports.Env();
  napi_value function;
  NAPI_THROW_IF_FAILED_VOID(
      env, napi_create_function(env, name, NAPI_AUTO_LENGTH, Handles::CallbackFor(call.arguments),
                                handles->Remember(call), &function));
  exports.Set(name, Napi::Value(env, function));
}

}  // namespace vfio
