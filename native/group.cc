#include "group.h"

#include "container.h"
#include "device.h"
#include "uapi/vfio.h"
#include "util/ioctl.h"

namespace vfio {
namespace {

napi_value Status(Napi::Env env, const Fd& fd, Arguments, Handles&) {
  vfio_group_status status{sizeof status, 0};
  Ioctl(fd, VFIO_REQUEST(VFIO_GROUP_GET_STATUS), &status);
  napi_value flags;
  NAPI_THROW_IF_FAILED(env, napi_create_uint32(env, status.flags, &flags), nullptr);
  return flags;
}

}  // namespace

Napi::FunctionReference Group::Define(Napi::Env env) {
  return DefineFdClass(env, {
                                DefineStatic<&Group::Open>("open"),
                                DefineMethod<&Group::SetContainer>("setContainer"),
                                DefineMethod<&Group::UnsetContainer>("unsetContainer"),
                                DefineMethod<&Group::OpenDevice>("openDevice"),
                            });
}

void Group::DefineQuick(Napi::Object exports, Handles* handles) {
  DefineCall<Group, Status, 0>(exports, "groupStatus", handles);
}

Napi::Value Group::Open(const Napi::CallbackInfo& info) {
  return Adopt(info.Env(), OpenFile(TextArgument(info, 0, "path"), "group"));
}

Napi::Value Group::SetContainer(const Napi::CallbackInfo& info) {
  int container = Container::From(info.Env(), info[0]).fd()->number();
  Ioctl(*fd(), VFIO_REQUEST(VFIO_GROUP_SET_CONTAINER), &container);
  return info.Env().Undefined();
}

Napi::Value Group::UnsetContainer(const Napi::CallbackInfo& info) {
  Ioctl(*fd(), VFIO_REQUEST(VFIO_GROUP_UNSET_CONTAINER));
  return info.Env().Undefined();
}

Napi::Value Group::OpenDevice(const Napi::CallbackInfo& info) {
  const std::string request = TextArgument(info, 0, "request");
  const std::string name = TextArgument(info, 1, "name");
  return OpenLater(
      info.Env(), "vfio:openDevice",
      [group = fd(), request, name] {
        const int number = Ioctl(*group, VFIO_REQUEST(VFIO_GROUP_GET_DEVICE_FD), request.c_str());
        return std::make_shared<const Fd>(number, name);
      },
      Device::Adopt);
}

}  // namespace vfio
