#include "offers.h"

#include <sys/random.h>

#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "device.h"
#include "iommufd.h"
#include "type1.h"

namespace vfio {
namespace {

/** A kind of object that another thread may be given. */
struct Kind {
  const napi_type_tag* tag;
  SharedFd (*fd)(Napi::Env env, napi_value object);
  void (*give)(Napi::Env env, napi_value object);
  Napi::Object (*adopt)(Napi::Env env, const SharedFd& fd);
};

template <typename T>
constexpr Kind kKindOf{&T::kTag, [](Napi::Env env, napi_value object) { return T::From(env, object).fd(); },
                       [](Napi::Env env, napi_value object) { T::From(env, object).Take(); },
                       [](Napi::Env env, const SharedFd& fd) { return T::Adopt(env, fd); }};

constexpr Kind kKinds[] = {kKindOf<Container>, kKindOf<Group>, kKindOf<Device>, kKindOf<Iommufd>};

const Kind& KindOf(Napi::Env env, const Napi::Value& value) {
  for (const Kind& kind : kKinds) {
    if (value.IsObject() && value.As<Napi::Object>().CheckTypeTag(kind.tag)) return kind;
  }
  BadArgument(env, "expected a Container, Group, Device or Iommufd");
}

struct Part {
  const Kind* kind;
  SharedFd fd;
};
using Offered = std::vector<Part>;
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

Napi::Value OfferAll(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() == 0) BadArgument(env, "expected objects to hand over");
  Offered offered;
  for (size_t i = 0; i < info.Length(); i++) {
    const Kind& kind = KindOf(env, info[i]);
    offered.push_back({&kind, kind.fd(env, info[i])});
    for (size_t before = 0; before < i; before++) {
      if (offered[before].fd == offered[i].fd) BadArgument(env, "an object can be handed over once");
    }
  }
  double number;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    Open().emplace(last + 1, offered);
    number = static_cast<double>(++last);
  }
  // Nothing fails from here on.
  for (size_t i = 0; i < info.Length(); i++) offered[i].kind->give(env, info[i]);
  return Napi::Number::New(env, number);
}

Napi::Value AcceptAll(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  double number;
  if (napi_get_value_double(env, info[0], &number) != napi_ok) number = 0;
  Offers::node_type taken = Take(number);
  if (taken.empty())
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "nothing was handed over by this number, or it was taken already");
  std::vector<Napi::Object> adopted;
  try {
    const Offered& offered = taken.mapped();
    adopted.reserve(offered.size());
    for (const auto& [kind, fd] : offered) adopted.push_back(kind->adopt(env, fd));
    Napi::Array all = Napi::Array::New(env, adopted.size());
    for (size_t i = 0; i < adopted.size(); i++) all.Set(static_cast<uint32_t>(i), adopted[i]);
    return all;
  } catch (...) {
    // Else one descriptor would have two owners.
    for (size_t i = 0; i < adopted.size(); i++) taken.mapped()[i].kind->give(env, adopted[i]);
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
