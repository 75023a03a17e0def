#pragma once

#include <napi.h>

namespace vfio {

/**
 * startWriter() -> {pid, socket}: a process of its own for calls on files that the kernel may keep waiting for
 * ever. It holds nothing of this one: no descriptor, no shared memory, no terminal. It answers on the socket,
 * first with a word of 0 when it is ready, and ends when nobody has the other end any more.
 */
Napi::Value StartWriter(const Napi::CallbackInfo& info);
// askWriter(socket, write, path, text, lock): one read or write of a file. The process keeps `lock` open until
// it is done; it answers with a word: a negated errno, or how many bytes follow.
Napi::Value AskWriter(const Napi::CallbackInfo& info);
/**
 * readWaiting(paths, patience) -> (Buffer | number)[]: the first 4,096 bytes of files that may keep a reader
 * waiting for ever, read by a process beside this one; a negated errno for what failed. What the kernel keeps waiting for
 * `patience` milliseconds is left behind (ETIMEDOUT) with its process; behind the third of these so is the rest.
 */
Napi::Value ReadWaiting(const Napi::CallbackInfo& info);
// reapWriter(pid): takes the end of a process that closed its socket, without waiting for it.
Napi::Value ReapWriter(const Napi::CallbackInfo& info);

}  // namespace vfio
