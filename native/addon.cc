#include <napi.h>

#include "account.h"
#include "container.h"
#include "device.h"
#include "dma.h"
#include "event-fd.h"
#include "fd.h"
#include "group.h"
#include "kvm.h"
#include "lock.h"
#include "memory-file.h"
#include "memory.h"
#include "migration.h"
#include "poll.h"
#include "region.h"
#include "tree.h"
#include "writer.h"

namespace {

// No structure without capabilities is larger.
constexpr size_t kAnswersSize = 64;

/** The word that tells of losses; where the runtime forbids memory of others there are no mappings, and so
 * none of their losses. */
napi_value Losses(Napi::Env env) {
  napi_value buffer;
  const napi_status status = napi_create_external_arraybuffer(env, &vfio::Mapping::Losses(), sizeof(uint32_t),
                                                              nullptr, nullptr, &buffer);
  return status == napi_ok ? buffer : Napi::ArrayBuffer::New(env, sizeof(uint32_t));
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  auto* addon = new vfio::Addon;
  env.SetInstanceData(addon);
  addon->container = vfio::Container::Define(env);
  addon->group = vfio::Group::Define(env);
  addon->device = vfio::Device::Define(env);
  addon->event_fd = vfio::EventFd::Define(env);
  addon->poll = vfio::Poll::Define(env);
  addon->memory_file = vfio::MemoryFile::Define(env);
  addon->memory = vfio::Memory::Define(env);
  addon->kvm_vfio = vfio::KvmVfio::Define(env);
  addon->migration_data = vfio::MigrationData::Define(env);
  exports.Set("Container", addon->container.Value());
  exports.Set("Group", addon->group.Value());
  exports.Set("Device", addon->device.Value());
  exports.Set("EventFd", addon->event_fd.Value());
  exports.Set("Poll", addon->poll.Value());
  exports.Set("MemoryFile", addon->memory_file.Value());
  exports.Set("Memory", addon->memory.Value());
  exports.Set("KvmVfio", addon->kvm_vfio.Value());
  exports.Set("MigrationData", addon->migration_data.Value());
  Napi::ArrayBuffer answers = Napi::ArrayBuffer::New(env, kAnswersSize);
  addon->answers = Napi::Persistent(answers);
  addon->handles->answers = answers.Data();
  exports.Set("answers", answers);
  vfio::Group::DefineQuick(exports, addon->handles.get());
  vfio::Device::DefineQuick(exports, addon->handles.get());
  vfio::Memory::DefineQuick(exports, addon->handles.get());
  vfio::DefineDma(exports, addon->handles.get());
  vfio::DefineRegionAccess(exports, addon->handles.get());
  exports.Set("losses", Losses(env));
  exports.Set("tryLock", Napi::Function::New(env, vfio::TryLock));
  exports.Set("tryLockByte", Napi::Function::New(env, vfio::TryLockByte));
  exports.Set("startWriter", Napi::Function::New(env, vfio::StartWriter));
  exports.Set("askWriter", Napi::Function::New(env, vfio::AskWriter));
  exports.Set("reapWriter", Napi::Function::New(env, vfio::ReapWriter));
  exports.Set("findUser", Napi::Function::New(env, vfio::FindUser));
  exports.Set("findGroup", Napi::Function::New(env, vfio::FindGroup));
  exports.Set("readTree", Napi::Function::New(env, vfio::ReadTree));
  return exports;
}

}  // namespace

NODE_API_MODULE(vfio, Init)
