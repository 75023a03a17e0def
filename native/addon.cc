#include <napi.h>
#include <unistd.h>

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
#include "offers.h"
#include "poll.h"
#include "region.h"
#include "tree.h"
#include "writer.h"

namespace {

// No structure without capabilities is larger.
constexpr size_t kAnswersSize = 64;

/**
 * What may take long to close when an environment ends: the last close of a device resets it, that of a group
 * lets its memory go. A region that is mapped would keep its device open.
 */
vfio::Calls::Resources TakeOpen(vfio::Handles& handles) {
  for (const vfio::Resource& memory : handles.TakeAll(vfio::Memory::kTag)) {
    static_cast<const vfio::Mapping*>(memory.get())->Release();
  }
  vfio::Calls::Resources open;
  for (const napi_type_tag* kind :
       {&vfio::MigrationData::kTag, &vfio::Device::kTag, &vfio::Group::kTag, &vfio::Container::kTag}) {
    for (vfio::Resource& resource : handles.TakeAll(*kind)) open.push_back(std::move(resource));
  }
  return open;
}

template <bool on>
void KeepAlive(const Napi::CallbackInfo& info) {
  vfio::CallsOf(info.Env()).KeepAlive(on);
}

/** How long calls stand to the event loop. */
Napi::Object Loop(Napi::Env env) {
  Napi::Object loop = Napi::Object::New(env);
  loop.Set("ref", Napi::Function::New<KeepAlive<true>>(env));
  loop.Set("unref", Napi::Function::New<KeepAlive<false>>(env));
  return loop;
}

/** The words that tell of mappings; where the runtime forbids memory of others there are none to tell of. */
napi_value MappingCounts(Napi::Env env) {
  vfio::Mapping::Counts& counts = vfio::Mapping::CountsOfProcess();
  napi_value buffer;
  const napi_status status =
      napi_create_external_arraybuffer(env, &counts, sizeof counts, nullptr, nullptr, &buffer);
  return status == napi_ok ? buffer : Napi::ArrayBuffer::New(env, sizeof counts);
}

void HandleBusErrors(const Napi::CallbackInfo&) {
  vfio::Mapping::HandleBusErrors();
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  auto* addon = new vfio::Addon;
  env.SetInstanceData(addon);
  addon->calls = vfio::Calls::Open(env, [handles = addon->handles] { return TakeOpen(*handles); });
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
  exports.Set("loop", Loop(env));
  exports.Set("mappingCounts", MappingCounts(env));
  exports.Set("pageSize", Napi::Number::New(env, static_cast<double>(::sysconf(_SC_PAGESIZE))));
  exports.Set("handleBusErrors", Napi::Function::New(env, HandleBusErrors));
  exports.Set("offer", Napi::Function::New(env, vfio::Offer));
  exports.Set("accept", Napi::Function::New(env, vfio::Accept));
  exports.Set("tryLock", Napi::Function::New(env, vfio::TryLock));
  exports.Set("tryLockByte", Napi::Function::New(env, vfio::TryLockByte));
  exports.Set("startWriter", Napi::Function::New(env, vfio::StartWriter));
  exports.Set("askWriter", Napi::Function::New(env, vfio::AskWriter));
  exports.Set("readWaiting", Napi::Function::New(env, vfio::ReadWaiting));
  exports.Set("reapWriter", Napi::Function::New(env, vfio::ReapWriter));
  exports.Set("findUser", Napi::Function::New(env, vfio::FindUser));
  exports.Set("findGroup", Napi::Function::New(env, vfio::FindGroup));
  exports.Set("readTree", Napi::Function::New(env, vfio::ReadTree));
  return exports;
}

}  // namespace

NODE_API_MODULE(vfio, Init)
