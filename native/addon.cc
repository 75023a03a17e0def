#include <napi.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <gnu/libc-version.h>
#endif

#include "device.h"
#include "dma-buf.h"
#include "event-fd.h"
#include "fd.h"
#include "host/account.h"
#include "host/lines.h"
#include "host/lock.h"
#include "host/process.h"
#include "host/terminal.h"
#include "host/messages.h"
#include "host/tree.h"
#include "host/writer.h"
#include "iommufd.h"
#include "kvm.h"
#include "memory-file.h"
#include "memory.h"
#include "migration.h"
#include "offers.h"
#include "poll.h"
#include "region.h"
#include "type1.h"

namespace {

/**
 * What may take long to close when an environment ends: the last close of a device resets it, that of a
 * container or an Iommufd lets its memory go. A region that is mapped would keep its device open.
 */
vfio::Calls::Resources TakeOpen(vfio::Handles& handles) {
  for (const vfio::Resource& memory : handles.TakeAll(vfio::Memory::kTag)) {
    static_cast<const vfio::Mapping*>(memory.get())->Release();
  }
  vfio::Calls::Resources open;
  for (const napi_type_tag* kind :
       {&vfio::MigrationData::kTag, &vfio::DmaBuf::kTag, &vfio::Device::kTag, &vfio::Group::kTag,
        &vfio::Container::kTag, &vfio::Iommufd::kTag}) {
    for (vfio::Resource& resource : handles.TakeAll(*kind)) open.push_back(std::move(resource));
  }
  return open;
}

/** Whether calls keep the event loop going. */
template <bool on>
Napi::Value KeepAlive(const Napi::CallbackInfo& info) {
  vfio::CallsOf(info.Env()).KeepAlive(on);
  return info.Env().Undefined();
}

/** The words that tell of mappings; where the runtime forbids memory of others there are none to tell of. */
napi_value MappingCounts(Napi::Env env) {
  vfio::Mapping::Counts& counts = vfio::Mapping::CountsOfProcess();
  napi_value buffer;
  const napi_status status =
      napi_create_external_arraybuffer(env, &counts, sizeof counts, nullptr, nullptr, &buffer);
  return status == napi_ok ? buffer : Napi::ArrayBuffer::New(env, sizeof counts);
}

Napi::Value HandleBusErrors(const Napi::CallbackInfo& info) {
  vfio::Mapping::HandleBusErrors();
  return info.Env().Undefined();
}

/** musl would take what was linked with glibc for its own; that it does not have this function keeps it from that. */
Napi::Value GlibcVersion(Napi::Env env) {
#ifdef __GLIBC__
  return Napi::String::New(env, ::gnu_get_libc_version());
#else
  return env.Null();
#endif
}

struct NamedFunction {
  const char* name;
  Napi::Value (*call)(const Napi::CallbackInfo& info);
};

constexpr NamedFunction kFunctions[] = {
    {"handleBusErrors", HandleBusErrors}, {"offer", vfio::Offer},
    {"accept", vfio::Accept},             {"tryLock", vfio::TryLock},
    {"tryLockByte", vfio::TryLockByte},   {"startWriter", vfio::StartWriter},
    {"askWriter", vfio::AskWriter},       {"readWaiting", vfio::ReadWaiting},
    {"reapWriter", vfio::ReapWriter},     {"findUser", vfio::FindUser},
    {"findGroup", vfio::FindGroup},       {"readTree", vfio::ReadTree},
    {"terminalGroups", vfio::TerminalGroups},
    {"setTerminalGroup", vfio::SetTerminalGroup},
    {"terminalModes", vfio::TerminalModes},
    {"setTerminalModes", vfio::SetTerminalModes},
    {"networkOwner", vfio::NetworkOwner},  {"describe", vfio::Describe},
    {"findHead", vfio::FindHead},
};

constexpr NamedFunction kLoop[] = {{"ref", KeepAlive<true>}, {"unref", KeepAlive<false>}};

template <size_t count>
void Define(Napi::Object into, const NamedFunction (&functions)[count]) {
  for (const auto& [name, call] : functions) into.Set(name, Napi::Function::New(into.Env(), call));
}

struct NamedClass {
  const char* name;
  Napi::FunctionReference vfio::Addon::*member;
  Napi::FunctionReference (*define)(Napi::Env env);
};

constexpr NamedClass kClasses[] = {
    {"Container", &vfio::Addon::container, vfio::Container::Define},
    {"Group", &vfio::Addon::group, vfio::Group::Define},
    {"Device", &vfio::Addon::device, vfio::Device::Define},
    {"Iommufd", &vfio::Addon::iommufd, vfio::Iommufd::Define},
    {"DmaBuf", &vfio::Addon::dma_buf, vfio::DmaBuf::Define},
    {"EventFd", &vfio::Addon::event_fd, vfio::EventFd::Define},
    {"Poll", &vfio::Addon::poll, vfio::Poll::Define},
    {"MemoryFile", &vfio::Addon::memory_file, vfio::MemoryFile::Define},
    {"Memory", &vfio::Addon::memory, vfio::Memory::Define},
    {"KvmVfio", &vfio::Addon::kvm_vfio, vfio::KvmVfio::Define},
    {"MigrationData", &vfio::Addon::migration_data, vfio::MigrationData::Define},
    {"Process", &vfio::Addon::process, vfio::Process::Define},
    {"Guard", &vfio::Addon::guard, vfio::Guard::Define},
    {"Messages", &vfio::Addon::messages, vfio::Messages::Define},
};

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  auto* addon = new vfio::Addon;
  env.SetInstanceData(addon);
  addon->calls = vfio::Calls::Open(env, [handles = addon->handles] { return TakeOpen(*handles); });
  for (const auto& [name, member, define] : kClasses) {
    addon->*member = define(env);
    exports.Set(name, (addon->*member).Value());
  }
  vfio::Container::DefineQuick(exports, addon->handles.get());
  vfio::Group::DefineQuick(exports, addon->handles.get());
  vfio::Device::DefineQuick(exports, addon->handles.get());
  vfio::Memory::DefineQuick(exports, addon->handles.get());
  vfio::Iommufd::DefineQuick(exports, addon->handles.get());
  vfio::DefineRegionAccess(exports, addon->handles.get());
  Napi::Object loop = Napi::Object::New(env);
  Define(loop, kLoop);
  exports.Set("loop", loop);
  exports.Set("mappingCounts", MappingCounts(env));
  exports.Set("pageSize", Napi::Number::New(env, static_cast<double>(::sysconf(_SC_PAGESIZE))));
  exports.Set("glibcVersion", GlibcVersion(env));
  Define(exports, kFunctions);
  return exports;
}

}  // namespace

NODE_API_MODULE(vfio, Init)
