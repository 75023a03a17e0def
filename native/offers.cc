#include "offers.h"

#include <sys/random.h>

#include <map>
#include <mutex>
#include <utility>

#include "device.h"
#include "type1.h"

namespace vfio {
namespace {

struct Offered {
  SharedFd container;
  SharedFd group;
  SharedFd device;
};
using Offers = std::map<uint64_t, Offered>;

/** A number that another process does not begin with: what was handed over there is not taken for what was here. */
uint64_t First() {
  uint64_t number = 0;
  if (::getrandom(&number, sizeof number, 0) < 0) number = 0;
  // JavaScript counts exactly up to twice this.
  return number % (uint64_t{1} << 52);
}

std::mutex mutex;
uint64_t last = First();

Offers& Open() {
  // Never destroyed: a thread may still come when the process ends.
  static auto* const offers = new Offers;
  return *offers;
}

/** Taken out whole; empty where there is no such offer. */
Offers::node_type Take(double number) {
  const std::lock_guard<std::mutex> lock(mutex);
  // The comparison is false for NaN too, and only where it holds the cast is defined.
  if (!(number >= 1 && number <= static_cast<double>(last))) return {};
  return Open().extract(static_cast<uint64_t>(number));
}

void PutBack(Offers::node_type offer) {
  const std::lock_guard<std::mutex> lock(mutex);
  Open().insert(std::move(offer));
}

/** An object that is closed again unless it is kept: else a failure would leave two owners of one descriptor.
 */
template <typename T>
class Adopted {
 public:
  Adopted(Napi::Env env, const SharedFd& fd) : object_(T::Adopt(env, fd)), owner_(&T::From(env, object_)) {}
  ~Adopted() {
    if (owner_) owner_->Give();
  }
  Adopted(const Adopted&) = delete;
  Adopted& operator=(const Adopted&) = delete;

  const Napi::Object& object() const { return object_; }
  void Keep() { owner_ = nullptr; }

 private:
  const Napi::Object object_;
  T* owner_;
};

Napi::Value OfferAll(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto& container = Container::From(env, info[0]);
  auto& group = Group::From(env, info[1]);
  auto& device = Device::From(env, info[2]);
  Offered offered{container.fd(), group.fd(), device.fd()};
  double number;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    Open().emplace(last + 1, std::move(offered));
    number = static_cast<double>(++last);
  }
  // Nothing fails from here on.
  device.Give();
  group.Give();
  container.Give();
  return Napi::Number::New(env, number);
}

Napi::Value AcceptAll(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  double number;
  if (napi_get_value_double(env, info[0], &number) != napi_ok) number = 0;
  Offers::node_type taken = Take(number);
  if (taken.empty())
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "nothing was handed over by this number, or it was taken already");
  try {
    const Offered& offered = taken.mapped();
    Adopted<Container> container(env, offered.container);
    Adopted<Group> group(env, offered.group);
    Adopted<Device> device(env, offered.device);
    Napi::Array all = Napi::Array::New(env, 3);
    all.Set(uint32_t{0}, container.object());
    all.Set(uint32_t{1}, group.object());
    all.Set(uint32_t{2}, device.object());
    container.Keep();
    group.Keep();
    device.Keep();
    return all;
  } catch (...) {
    PutBack(std::move(taken));
    throw;
  }
}

}  // namespace

Napi::Value Offer(const Napi::CallbackInfo& info) {
  try {
    return OfferAll(info);
  } catch (...) {
    throw ToError(info.Env());
  }
}

Napi::Value Accept(const Napi::CallbackInfo& info) {
  try {
    return AcceptAll(info);
  } catch (...) {
    throw ToError(info.Env());
  }
}

}  // namespace vfio
