#include "offers.h"

#include <map>
#include <mutex>
#include <utility>

namespace vfio {
namespace {

struct Entry {
  napi_type_tag kind;
  SharedFd fd;
};

std::mutex mutex;
uint64_t last = 0;

std::map<uint64_t, Entry>& Entries() {
  // Never destroyed: a thread may still come when the process ends.
  static auto* const entries = new std::map<uint64_t, Entry>;
  return *entries;
}

}  // namespace

double Offer(const napi_type_tag& kind, SharedFd fd) {
  const std::lock_guard<std::mutex> lock(mutex);
  Entries().emplace(++last, Entry{kind, std::move(fd)});
  return static_cast<double>(last);
}

SharedFd Accept(const napi_type_tag& kind, double number) {
  const std::lock_guard<std::mutex> lock(mutex);
  // The comparison is false for NaN too, and only where it holds the cast is defined.
  if (!(number >= 1 && number <= static_cast<double>(last))) return nullptr;
  const auto found = Entries().find(static_cast<uint64_t>(number));
  if (found == Entries().end() || found->second.kind.lower != kind.lower ||
      found->second.kind.upper != kind.upper) {
    return nullptr;
  }
  SharedFd fd = std::move(found->second.fd);
  Entries().erase(found);
  return fd;
}

}  // namespace vfio
