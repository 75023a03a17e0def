// Writes to a device that an eventfd sets off: VFIO_DEVICE_IOEVENTFD.
#include "device.h"
#include "uapi/vfio.h"
#include "util/ioctl.h"

namespace vfio {

Napi::Value Device::Ioeventfd(const Napi::CallbackInfo& info) {
  vfio_device_ioeventfd question{};
  question.argsz = sizeof question;
  question.flags = Uint32Argument(info, 0, "flags");
  question.offset = CheckedUint64(info, 1, "offset");
  question.data = CheckedUint64(info, 2, "data");
  // `null` takes it off again.
  question.fd = info[3].IsNull() ? -1 : DescriptorArgument(info, 3, "eventfd");
  Ioctl(*fd(), VFIO_REQUEST(VFIO_DEVICE_IOEVENTFD), &question);
  return info.Env().Undefined();
}

}  // namespace vfio
