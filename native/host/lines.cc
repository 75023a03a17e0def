#include "host/lines.h"

#include <cstring>

#include "util/arguments.h"

namespace vfio {
namespace {

constexpr uint32_t kDeepest = 2;

/** Is a line behind a newline, of which so much is there, indented by no more tabs, and no comment? */
bool IsHead(const char* line, size_t length, uint32_t tabs) {
  if (length > 0 && (line[0] == '#' || line[0] == '\n')) return false;
  size_t depth = 0;
  while (depth <= tabs && depth < length && line[depth] == '\t') ++depth;
  // Of a line that is cut off nothing is known.
  return depth <= tabs && depth < length;
}

}  // namespace

Napi::Value FindHead(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Buffer text = ViewArgument(env, info[0], "text");
  const size_t from = Uint32Argument(info, 1, "from");
  const uint32_t tabs = Uint32Argument(info, 2, "tabs");
  if (tabs > kDeepest) BadArgument(env, "tabs: at most two");
  const char* const start = static_cast<const char*>(text.data);
  const char* const end = start + text.size;
  const char* at = from < text.size ? start + from : end;
  while (at < end) {
    at = static_cast<const char*>(memchr(at, '\n', static_cast<size_t>(end - at)));
    if (at == nullptr) break;
    if (IsHead(at + 1, static_cast<size_t>(end - at - 1), tabs)) {
      return Napi::Value(env, ToNumber(env, static_cast<uint64_t>(at - start)));
    }
    ++at;
  }
  return Napi::Number::New(env, -1);
}

}  // namespace vfio
