#pragma once

#include "handles.h"
#include "util/fd.h"

namespace vfio {

/** Mappings of memory for the devices of a container: the calls that are made often, which wait. */
void DefineDma(Napi::Object exports, Handles* handles);

/** The same off the main thread, for large ones; methods of a container. */
Napi::Value MapDma(const Napi::CallbackInfo& info, const SharedFd& container);
Napi::Value UnmapDma(const Napi::CallbackInfo& info, const SharedFd& container);

/** Logging of the pages that devices write; methods of a container. */
Napi::Value LogDirtyPages(const Napi::CallbackInfo& info, const SharedFd& container);
Napi::Value DirtyBitmap(const Napi::CallbackInfo& info, const SharedFd& container);
Napi::Value UnmapDirty(const Napi::CallbackInfo& info, const SharedFd& container);

}  // namespace vfio
