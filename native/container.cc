#include "container.h"

#include "dma.h"
#include "uapi/vfio.h"
#include "util/answer.h"
#include "util/ioctl.h"

namespace vfio {

Napi::FunctionReference Container::Define(Napi::Env env) {
  return DefineFdClass(env, {
                                DefineStatic<&Container::Open>("open"),
                                DefineMethod<&Container::ApiVersion>("apiVersion"),
                                DefineMethod<&Container::CheckExtension>("checkExtension"),
                                DefineMethod<&Container::SetIommu>("setIommu"),
                                DefineMethod<&Container::IommuInfo>("iommuInfo"),
                                DefineMethod<&Container::With<MapDma>>("mapDma"),
                                DefineMethod<&Container::With<UnmapDma>>("unmapDma"),
                                DefineMethod<&Container::With<LogDirtyPages>>("logDirtyPages"),
                                DefineMethod<&Container::With<DirtyBitmap>>("dirtyBitmap"),
                                DefineMethod<&Container::With<UnmapDirty>>("unmapDirty"),
                            });
}

Napi::Value Container::Open(const Napi::CallbackInfo& info) {
  return Adopt(info.Env(), OpenFile(TextArgument(info, 0, "path"), "container"));
}

Napi::Value Container::ApiVersion(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), Ioctl(*fd(), VFIO_REQUEST(VFIO_GET_API_VERSION)));
}

Napi::Value Container::CheckExtension(const Napi::CallbackInfo& info) {
  const unsigned long extension = Uint32Argument(info, 0, "extension");
  return Napi::Number::New(info.Env(), Ioctl(*fd(), VFIO_REQUEST(VFIO_CHECK_EXTENSION), extension));
}

Napi::Value Container::SetIommu(const Napi::CallbackInfo& info) {
  const unsigned long type = Uint32Argument(info, 0, "type");
  Ioctl(*fd(), VFIO_REQUEST(VFIO_SET_IOMMU), type);
  return info.Env().Undefined();
}

Napi::Value Container::IommuInfo(const Napi::CallbackInfo& info) {
  const Buffer into = BufferArgument(info, 0, "into");
  Answer answer;
  Ask(*fd(), VFIO_REQUEST(VFIO_IOMMU_GET_INFO), vfio_iommu_type1_info{}, VFIO_IOMMU_INFO_CAPS, answer);
  return Napi::Value(info.Env(), answer.CopyTo(info.Env(), into));
}

}  // namespace vfio
