#include "util/work.h"

#include <memory>

#include "util/failure.h"

namespace vfio {

Work::Work(Napi::Env env, Execute execute, Result result)
    : deferred_(Napi::Promise::Deferred::New(env)),
      execute_(std::move(execute)),
      result_(std::move(result)) {}

Napi::Value Work::Start(Napi::Env env, const char* name, Execute execute, Result result) {
  std::unique_ptr<Work> work(new Work(env, std::move(execute), std::move(result)));
  const Napi::Value promise = work->deferred_.Promise();
  const napi_value resource_name = Napi::String::New(env, name);
  NAPI_THROW_IF_FAILED(
      env, napi_create_async_work(env, nullptr, resource_name, OnPool, OnMain, work.get(), &work->work_),
      promise);
  const napi_status queued = napi_queue_async_work(env, work->work_);
  if (queued != napi_ok) {
    napi_delete_async_work(env, work->work_);
    throw Napi::Error::New(env);
  }
  work.release();
  return promise;
}

Napi::Value Work::Start(Napi::Env env, const char* name, Execute execute) {
  return Start(env, name, std::move(execute), [](Napi::Env env) { return env.Undefined(); });
}

void Work::OnPool(napi_env, void* data) {
  Work* work = static_cast<Work*>(data);
  try {
    work->execute_();
  } catch (...) {
    work->failure_ = std::current_exception();
  }
  // What it captured is let go here: the last reference to a descriptor closes it, and that may take long
  // too.
  work->execute_ = nullptr;
}

void Work::OnMain(napi_env raw_env, napi_status, void* data) {
  const std::unique_ptr<Work> work(static_cast<Work*>(data));
  const Napi::Env env(raw_env);
  const Napi::HandleScope scope(env);
  napi_delete_async_work(env, work->work_);
  try {
    if (work->failure_) std::rethrow_exception(work->failure_);
    work->deferred_.Resolve(work->result_(env));
  } catch (...) {
    try {
      work->deferred_.Reject(ToError(env).Value());
    } catch (const Napi::Error&) {
      // The environment is going away: nobody is left to be told.
    }
  }
}

}  // namespace vfio
