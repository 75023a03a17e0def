#include "memory.h"

#include <cstring>

#include "util/ioctl.h"
#include "util/mmio.h"

namespace vfio {
namespace {

Napi::ArrayBuffer ExternalBuffer(Napi::Env env, const SharedMapping& mapping) {
  auto* owner = new SharedMapping(mapping);
  napi_value buffer;
  const napi_status status = napi_create_external_arraybuffer(
      env, mapping->data(), mapping->size(),
      [](napi_env, void*, void* owner) { delete static_cast<SharedMapping*>(owner); }, owner, &buffer);
  if (status == napi_ok) return Napi::ArrayBuffer(env, buffer);
  if (status == napi_no_external_buffers_allowed) {
    delete owner;
    throw Refusal("ERR_VFIO_NO_EXTERNAL_MEMORY",
                  "this runtime allows no array buffers over memory that it did not allocate (Electron does "
                  "not): use read() and write(), which copy");
  }
  // Too large for this runtime, which threw its own error. It has taken the owner, and lets it go later.
  napi_value thrown;
  napi_get_and_clear_last_exception(env, &thrown);
  throw Refusal("ERR_VFIO_BAD_ARGUMENT",
                "this runtime has no array buffer of " + std::to_string(mapping->size()) +
                    " bytes (buffer.constants.MAX_LENGTH): take several smaller ones");
}

// Throws where [offset, offset + size) is not inside.
char* At(const Mapping& mapping, int64_t offset, size_t size) {
  if (offset < 0 || size > mapping.size() || static_cast<uint64_t>(offset) > mapping.size() - size) {
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "outside of the mapped memory");
  }
  return mapping.data() + offset;
}

template <typename T>
napi_value Write(Napi::Env env, const Mapping& mapping, Arguments arguments, Handles&) {
  char* const where = At(mapping, CheckedInt64(env, arguments[0], "offset"), sizeof(T));
  if (reinterpret_cast<uintptr_t>(where) % sizeof(T) != 0) {
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "the offset is not aligned to the width of the access");
  }
  mmio::Store<T>(where, CheckedWord<T>(env, arguments[1], "value"));
  return nullptr;
}

napi_value CopyOut(Napi::Env env, const Mapping& mapping, Arguments arguments, Handles&) {
  const Buffer into = ViewArgument(env, arguments[1], "into");
  mmio::CopyFrom(into.data, At(mapping, CheckedInt64(env, arguments[0], "offset"), into.size), into.size);
  return nullptr;
}

napi_value CopyIn(Napi::Env env, const Mapping& mapping, Arguments arguments, Handles&) {
  const Buffer from = ViewArgument(env, arguments[1], "from");
  mmio::CopyTo(At(mapping, CheckedInt64(env, arguments[0], "offset"), from.size), from.data, from.size);
  return nullptr;
}

}  // namespace

uint64_t PartOf(const Mapping& memory, int64_t offset, int64_t size) {
  if (offset < 0 || size < 0 || static_cast<uint64_t>(offset) > memory.size() ||
      static_cast<uint64_t>(size) > memory.size() - static_cast<uint64_t>(offset)) {
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "outside of the memory");
  }
  return AddressOf(memory.data()) + static_cast<uint64_t>(offset);
}

// The wrapper of a constructor would make any exception but JavaScript's a plain error.
Memory::Memory(const Napi::CallbackInfo& info) try : ObjectOf(info) {
  const Napi::ArrayBuffer buffer = ExternalBuffer(info.Env(), owned());
  buffer_ = Napi::Persistent(buffer);
  info.This().As<Napi::Object>().Set("buffer", buffer);
} catch (...) {
  throw ToError(info.Env());
}

void Memory::DefineQuick(Napi::Object exports, Handles* handles) {
  DefineCall<Memory, Write<uint8_t>, 2>(exports, "memoryWrite8", handles);
  DefineCall<Memory, Write<uint16_t>, 2>(exports, "memoryWrite16", handles);
  DefineCall<Memory, Write<uint32_t>, 2>(exports, "memoryWrite32", handles);
  DefineCall<Memory, Write<uint64_t>, 2>(exports, "memoryWrite64", handles);
  DefineCall<Memory, CopyOut, 2>(exports, "memoryCopyOut", handles);
  DefineCall<Memory, CopyIn, 2>(exports, "memoryCopyIn", handles);
}

Napi::FunctionReference Memory::Define(Napi::Env env) {
  return (DefineClass(env, {
                               DefineMethod<&Memory::Close>("close"),
                               DefineMethod<&Memory::Lost>("lost"),
                               DefineMethod<&Memory::Restore>("restore"),
                               DefineMethod<&Memory::Reserve>("reserve"),
                           }));
}

Napi::Value Memory::Close(const Napi::CallbackInfo& info) {
  const Resource taken = Take();
  if (!taken) return info.Env().Undefined();
  static_cast<const Mapping*>(taken.get())->Release();
  Napi::ArrayBuffer buffer = buffer_.Value();
  // One that was transferred is detached already; what it went to reads zeros from now on.
  if (!buffer.IsDetached()) buffer.Detach();
  buffer_.Reset();
  return info.Env().Undefined();
}

Napi::Value Memory::Lost(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), owned()->lost());
}

Napi::Value Memory::Restore(const Napi::CallbackInfo& info) {
  owned()->Restore();
  return info.Env().Undefined();
}

Napi::Value Memory::Reserve(const Napi::CallbackInfo& info) {
  owned()->Reserve();
  return info.Env().Undefined();
}

}  // namespace vfio
