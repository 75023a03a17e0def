#include "kvm.h"

#include <linux/kvm.h>

#include "device.h"
#include "type1.h"
#include "util/ioctl.h"

namespace vfio {
namespace {

// Since Linux 6.6 KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD and KVM_DEV_VFIO_FILE_DEL: the same numbers.
static_assert(KVM_DEV_VFIO_GROUP == 1);
static_assert(KVM_DEV_VFIO_GROUP_ADD == 1);
static_assert(KVM_DEV_VFIO_GROUP_DEL == 2);

SharedFd FileArgument(const Napi::CallbackInfo& info) {
  const Napi::Value file = info[0];
  if (file.IsObject() && file.As<Napi::Object>().CheckTypeTag(&Device::kTag)) {
    return Device::From(info.Env(), file).fd();
  }
  return Group::From(info.Env(), file).fd();
}

void Set(const Fd& kvm, uint64_t attribute, const Fd& file) {
  int32_t number = file.number();
  kvm_device_attr question{};
  question.group = KVM_DEV_VFIO_GROUP;
  question.attr = attribute;
  question.addr = reinterpret_cast<uintptr_t>(&number);
  Ioctl(kvm, VFIO_REQUEST(KVM_SET_DEVICE_ATTR), &question);
}

}  // namespace

Napi::FunctionReference KvmVfio::Define(Napi::Env env) {
  return DefineFdClass(env, {
                                DefineStatic<&KvmVfio::Create>("create"),
                                DefineMethod<&KvmVfio::Add>("add"),
                                DefineMethod<&KvmVfio::Remove>("remove"),
                            });
}

Napi::Value KvmVfio::Create(const Napi::CallbackInfo& info) {
  const int machine = DescriptorArgument(info, 0, "vmFd");
  kvm_create_device question{};
  question.type = KVM_DEV_TYPE_VFIO;
  // Not Ioctl(): the descriptor stays the caller's.
  if (::ioctl(machine, KVM_CREATE_DEVICE, &question) < 0) {
    throw SystemFailure(errno, "ioctl", "KVM_CREATE_DEVICE", "descriptor " + std::to_string(machine));
  }
  return Adopt(info.Env(),
               std::make_shared<const Fd>(static_cast<int>(question.fd), "the VFIO device of KVM"));
}

Napi::Value KvmVfio::Add(const Napi::CallbackInfo& info) {
  Set(*fd(), KVM_DEV_VFIO_GROUP_ADD, *FileArgument(info));
  return info.Env().Undefined();
}

Napi::Value KvmVfio::Remove(const Napi::CallbackInfo& info) {
  Set(*fd(), KVM_DEV_VFIO_GROUP_DEL, *FileArgument(info));
  return info.Env().Undefined();
}

}  // namespace vfio
