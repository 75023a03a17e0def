#pragma once

#include "object.h"
#include "util/mapping.h"

namespace vfio {

/** Mapped memory: a part of a device's region, or of a file whose pages devices may use. */
class Memory : public ObjectOf<Memory, Mapping> {
 public:
  static constexpr const char* kName = "Memory";
  static constexpr napi_type_tag kTag = {0x3d8e0f5ba1c24970, 0x96b2e4d78a05f1c3};
  static Napi::FunctionReference& Class(Addon& addon) { return addon.memory; }
  static Napi::FunctionReference Define(Napi::Env env);
  /** The calls that are made often, and the word that tells of losses. */
  static void DefineQuick(Napi::Object exports, Handles* handles);
  explicit Memory(const Napi::CallbackInfo& info);

 private:
  Napi::Value Close(const Napi::CallbackInfo& info);
  Napi::Value Lost(const Napi::CallbackInfo& info);
  Napi::Value Restore(const Napi::CallbackInfo& info);
  Napi::Value Reserve(const Napi::CallbackInfo& info);

  Napi::Reference<Napi::ArrayBuffer> buffer_;
};

/** The address of a part of it; a Refusal where it is not inside. */
uint64_t PartOf(const Mapping& memory, int64_t offset, int64_t size);

}  // namespace vfio
