#include "object.h"

namespace vfio {

Calls& CallsOf(Napi::Env env) {
  return *env.GetInstanceData<Addon>()->calls;
}

Object::Object(const Napi::CallbackInfo& info, const ObjectClass& object_class)
    : tag_(*object_class.tag), handles_(info.Env().GetInstanceData<Addon>()->handles) {
  Addon* addon = info.Env().GetInstanceData<Addon>();
  if (!addon->adopted)
    BadArgument(info.Env(), std::string(object_class.name) + " has no constructor: open it");
  Napi::Object self = info.This().As<Napi::Object>();
  self.TypeTag(&tag_);
  id_ = handles_->Add(tag_, std::move(addon->adopted));
  try {
    // A small integer, which calls take without a conversion.
    self.Set("id", ToNumber(info.Env(), id_));
  } catch (...) {
    handles_->Remove(id_);
    throw;
  }
}

Object::~Object() {
  Take();
}

Napi::FunctionReference Object::DefineClass(Napi::Env env, const ObjectClass& object_class,
                                            const std::vector<Member>& members) {
  napi_value constructor;
  NAPI_THROW_IF_FAILED(env,
                       napi_define_class(env, object_class.name, NAPI_AUTO_LENGTH, Construct,
                                         const_cast<ObjectClass*>(&object_class), members.size(),
                                         members.data(), &constructor),
                       Napi::FunctionReference());
  return Napi::Persistent(Napi::Function(env, constructor));
}

Object::Member Object::DefineMethod(const char* name, const MethodOf& method) {
  Member member{};
  member.utf8name = name;
  member.method = CallMethod;
  member.attributes = napi_default;
  member.data = const_cast<MethodOf*>(&method);
  return member;
}

Object::Member Object::DefineStatic(const char* name, Static call) {
  Member member{};
  member.utf8name = name;
  member.method = CallStatic;
  member.attributes = napi_static;
  member.data = reinterpret_cast<void*>(call);
  return member;
}

Napi::Object Object::Adopt(Napi::Env env, const Napi::FunctionReference& constructor, Resource resource) {
  Addon* addon = env.GetInstanceData<Addon>();
  addon->adopted = std::move(resource);
  try {
    return constructor.New({});
  } catch (...) {
    // Else the next `new` from JavaScript would get it.
    addon->adopted.reset();
    throw;
  }
}

Object& Object::From(Napi::Env env, napi_value value, const ObjectClass& object_class) {
  bool fits = false;
  void* object = nullptr;
  // First, because asking anything else for its tag throws.
  if (!Napi::Value(env, value).IsObject() ||
      napi_check_object_type_tag(env, value, object_class.tag, &fits) != napi_ok || !fits ||
      napi_unwrap(env, value, &object) != napi_ok) {
    BadArgument(env, std::string("expected a ") + object_class.name);
  }
  return *static_cast<Object*>(object);
}

const Resource& Object::resource() const {
  if (closed_) throw Refusal("ERR_VFIO_CLOSED", "this object is closed");
  return handles_->OpenAt(id_, tag_);
}

Resource Object::Take() {
  if (closed_) return {};
  closed_ = true;
  return handles_->Remove(id_);
}

napi_value Object::Construct(napi_env env, napi_callback_info raw) {
  return Napi::details::WrapCallback(env, [&]() -> napi_value {
    const Napi::CallbackInfo info(env, raw);
    const auto* object_class = static_cast<const ObjectClass*>(info.Data());
    if (!info.IsConstructCall())
      BadArgument(env, std::string(object_class->name) + " has no constructor: open it");
    std::unique_ptr<Object> object(object_class->make(info));
    const auto finalize = [](napi_env, void* object, void*) { delete static_cast<Object*>(object); };
    NAPI_THROW_IF_FAILED(env, napi_wrap(env, info.This(), object.get(), finalize, nullptr, nullptr), nullptr);
    object.release();
    return info.This();
  });
}

napi_value Object::CallMethod(napi_env env, napi_callback_info raw) {
  return Napi::details::WrapCallback(env, [&]() -> napi_value {
    const Napi::CallbackInfo info(env, raw);
    const auto* method = static_cast<const MethodOf*>(info.Data());
    try {
      return method->call(From(env, info.This(), *method->object_class), info);
    } catch (...) {
      throw ToError(env);
    }
  });
}

napi_value Object::CallStatic(napi_env env, napi_callback_info raw) {
  return Napi::details::WrapCallback(env, [&]() -> napi_value {
    const Napi::CallbackInfo info(env, raw);
    try {
      return reinterpret_cast<Static>(info.Data())(info);
    } catch (...) {
      throw ToError(env);
    }
  });
}

}  // namespace vfio
