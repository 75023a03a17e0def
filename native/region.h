#pragma once

#include "handles.h"

namespace vfio {

/** Reads and writes of a device's regions through its descriptor, by their place in its file. */
void DefineRegionAccess(Napi::Object exports, Handles* handles);

}  // namespace vfio
