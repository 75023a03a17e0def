#include "host/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "host/batch.h"
#include "util/arguments.h"
#include "util/failure.h"
#include "util/work.h"

namespace vfio {

namespace {

constexpr size_t kShort = 256;

// What stands in for a lone surrogate in UTF-8.
bool HasReplacement(const char* text, size_t size) { return memmem(text, size, "\xef\xbf\xbd", 3) != nullptr; }

// UTF-8, but a lone surrogate from U+DC80 on stands for a byte that is none (lib/sysfs/bytes.ts).
std::string Bytes(const Napi::String& text) {
  std::string out = text.Utf8Value();
  if (!HasReplacement(out.data(), out.size())) return out;
  std::u16string units = text.Utf16Value();
  out.clear();
  for (size_t i = 0; i < units.size(); i++) {
    uint32_t code = units[i];
    bool paired = (code & 0xfc00) == 0xd800 && i + 1 < units.size() && (units[i + 1] & 0xfc00) == 0xdc00;
    if (paired) code = 0x10000 + ((code & 0x3ff) << 10) + (units[++i] & 0x3ff);
    if (code < 0x80 || (code >= 0xdc80 && code <= 0xdcff)) {
      out.push_back(static_cast<char>(code & 0xff));
      continue;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    out.push_back(static_cast<char>((0xf00 >> (more + 1) & 0xff) | code >> 6 * more));
    while (more-- > 0) out.push_back(static_cast<char>(0x80 | (code >> 6 * more & 0x3f)));
  }
  return out;
}

}  // namespace

std::vector<std::string> Strings(const Napi::Value& value) {
  if (!value.IsArray()) BadArgument(value.Env(), "expected an array of strings");
  Napi::Array array = value.As<Napi::Array>();
  std::vector<std::string> out;
  const uint32_t length = array.Length();
  for (uint32_t i = 0; i < length; i++) {
    Napi::Value item = array.Get(i);
    // Nearly all are short, and two calls less then.
    char text[kShort];
    size_t size = 0;
    const napi_status status = napi_get_value_string_utf8(value.Env(), item, text, sizeof text, &size);
    if (status == napi_string_expected) BadArgument(value.Env(), "expected an array of strings");
    // What may have been cut is longer than the room less one character.
    if (status == napi_ok && size < sizeof text - 4 && !HasReplacement(text, size)) out.emplace_back(text, size);
    else out.push_back(Bytes(item.As<Napi::String>()));
  }
  return out;
}

namespace {

// Thousands of names come in one text, with a NUL between each two: two calls for each of them less.
std::vector<std::string> Names(const Napi::Value& value) {
  if (!value.IsString()) return Strings(value);
  const std::string text = Bytes(value.As<Napi::String>());
  std::vector<std::string> out;
  for (size_t from = 0; from <= text.size();) {
    const size_t end = std::min(text.find('\0', from), text.size());
    out.emplace_back(text, from, end - from);
    from = end + 1;
  }
  return out;
}

// Spans are 32-bit signed: a batch stays far below that.
constexpr size_t kMaximumBatch = 1u << 30;
constexpr size_t kRowsWorthAThread = 64;
constexpr size_t kMostThreads = 4;

// The descriptors of a thread. Nearly a third of the calls of a look would close one: where they are in a table that no
// other thread shares, one call closes many.
class Descriptors {
 public:
  // Leaves the table that threads share, in which besides each call pays for the others.
  void Leave() {
#ifdef SYS_close_range
    rlimit limit;
    // CLOSE_RANGE_UNSHARE, which older headers lack. A kernel that does not know it leaves the table as it is.
    is_own_ = syscall(SYS_close_range, 0U, ~0U, 2U) == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
              limit.rlim_cur >= 8 * kMostOpen;
#endif
  }

  // All that stand behind this one, if they are many.
  void CloseBehind(int first) {
#ifdef SYS_close_range
    if (open_ < kMostOpen) return;
    syscall(SYS_close_range, static_cast<unsigned>(first) + 1, ~0U, 0U);
    open_ = 0;
#endif
  }

  bool Keeps() {
    if (is_own_) open_++;
    return is_own_;
  }

 private:
  static constexpr unsigned kMostOpen = 64;
  bool is_own_ = false;
  unsigned open_ = 0;
};

class Descriptor {
 public:
  Descriptor(Descriptors& all, int fd) : fd_(fd), closes_(fd >= 0 && !all.Keeps()) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (closes_) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
  bool closes_;
};

std::vector<uint32_t> Counts(const Napi::Value& value, uint32_t maximum) {
  if (!value.IsArray()) BadArgument(value.Env(), "expected an array of counts");
  Napi::Array array = value.As<Napi::Array>();
  std::vector<uint32_t> out;
  for (uint32_t i = 0; i < array.Length(); i++) {
    Napi::Value item = array.Get(i);
    double count = item.IsNumber() ? item.As<Napi::Number>().DoubleValue() : -1;
    if (!(count >= 0 && count <= maximum)) BadArgument(value.Env(), "expected a count of bytes");
    out.push_back(static_cast<uint32_t>(count));
  }
  return out;
}

struct TreeRequest {
  std::string root;
  std::vector<std::string> directories, files;
  // How much of each file is read, in bytes.
  std::vector<uint32_t> limits;
  std::vector<std::string> links, lists, nodes;
  // Files that are config spaces, and of extended capabilities by id how many bytes are wanted.
  std::vector<std::string> spaces;
  std::vector<uint32_t> bodies;
};

constexpr uint32_t kLargestFile = 1 << 20;

void TakeFile(Batch& batch, Descriptors& all, int directory, const char* name, uint32_t limit) {
  // O_NONBLOCK: a FIFO in a hostile tree must not hang the reader.
  Descriptor file(all, openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (file.get() < 0) return batch.Fail(errno);
  batch.Take(limit, [&](uint8_t* into, size_t size) { return read(file.get(), into, size); });
}

constexpr size_t kStandardSpace = 256;
constexpr size_t kWholeSpace = 4096;

// Each four bytes of it are an access to the device, which takes a microsecond or more: of the extended capabilities only
// the list is read, and the bodies that are wanted. All else is zero.
void TakeSpace(Batch& batch, Descriptors& all, int directory, const char* name,
               const std::vector<uint32_t>& bodies) {
  Descriptor file(all, openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  struct stat facts;
  if (file.get() < 0 || fstat(file.get(), &facts) != 0) return batch.Fail(errno);
  alignas(uint64_t) uint8_t space[kWholeSpace] = {};
  // The answer as of pread(2): bytes that there are not, or not for this caller, are no error.
  auto read_at = [&](size_t at, size_t end) {
    return pread(file.get(), space + at, end - at, static_cast<off_t>(at));
  };
  const ssize_t standard = read_at(0, kStandardSpace);
  if (standard < 0) return batch.Fail(errno);
  const size_t size = std::min<size_t>(static_cast<size_t>(std::max<off_t>(facts.st_size, 0)), kWholeSpace);
  size_t length = static_cast<size_t>(standard);
  std::array<bool, kWholeSpace / 4> visited{};
  for (size_t at = length; at >= kStandardSpace && at + 4 <= size && !visited[at / 4];) {
    visited[at / 4] = true;
    const ssize_t got = read_at(at, at + 4);
    if (got < 0) return batch.Fail(errno);
    if (got < 4) break;
    length = size;
    uint32_t header = 0;
    for (size_t index = 4; index-- > 0;) header = header << 8 | space[at + index];
    if (header == 0 || header == UINT32_MAX) break;
    for (size_t index = 0; index + 1 < bodies.size(); index += 2) {
      const size_t end = std::min<size_t>(at + bodies[index + 1], size);
      if (bodies[index] != (header & 0xffff) || end <= at + 4) continue;
      if (read_at(at + 4, end) < 0) return batch.Fail(errno);
    }
    at = header >> 20 & 0xffc;
  }
  batch.Add(space, length);
}

void TakeLink(Batch& batch, int directory, const char* name) {
  batch.Take(PATH_MAX, [&](uint8_t* into, size_t size) {
    return readlinkat(directory, name, reinterpret_cast<char*>(into), size);
  });
}

// The kernel's own record of a directory entry (getdents64(2)): readdir(3) allocates 32 KiB for each
// directory.
struct Entry {
  uint64_t inode;
  int64_t offset;
  uint16_t length;
  uint8_t type;
  char name[];
};

// The names in a directory, each followed by a NUL: no other byte is in no name.
void TakeList(Batch& batch, Descriptors& all, int directory, const char* name) {
  Descriptor opened(all, openat(directory, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (opened.get() < 0) return batch.Fail(errno);
  std::string names;
  alignas(Entry) char buffer[4096];
  long filled;
  while ((filled = syscall(SYS_getdents64, opened.get(), buffer, sizeof buffer)) > 0) {
    for (long at = 0; at < filled;) {
      const Entry* entry = reinterpret_cast<const Entry*>(buffer + at);
      if (entry->name[0] != '.') names.append(entry->name).push_back('\0');
      at += entry->length;
    }
  }
  if (filled < 0) return batch.Fail(errno);
  batch.Add(reinterpret_cast<const uint8_t*>(names.data()), names.size());
}

// What device is behind a name: `c1:3`, `b259:0`, nothing for a file that is no device. Asks for nothing that
// a file system would have to fetch from its server, or that FUSE keeps from other users.
void TakeNode(Batch& batch, int directory, const char* name) {
  struct statx facts;
  // The call itself: musl before 1.2.4 has no function for it.
  if (syscall(SYS_statx, directory, name, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &facts) != 0)
    return batch.Fail(errno);
  std::string text;
  if (S_ISCHR(facts.stx_mode) || S_ISBLK(facts.stx_mode)) {
    text = (S_ISCHR(facts.stx_mode) ? "c" : "b") + std::to_string(facts.stx_rdev_major) + ":" +
           std::to_string(facts.stx_rdev_minor);
  }
  batch.Add(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

void TakeDirectories(Batch& batch, Descriptors& all, const TreeRequest& request, size_t from, size_t to) {
  size_t columns = request.files.size() + request.links.size() + request.lists.size() +
                   request.nodes.size();
  std::vector<bool> are_spaces;
  for (const std::string& file : request.files) {
    are_spaces.push_back(std::find(request.spaces.begin(), request.spaces.end(), file) != request.spaces.end());
  }
  Descriptor base(all, open(request.root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  int base_error = base.get() < 0 ? errno : 0;
  for (size_t row = from; row < to; row++) {
    const char* name = request.directories[row].c_str();
    all.CloseBehind(base.get());
    Descriptor directory(all, base_error ? -1 : openat(base.get(), name, O_PATH | O_DIRECTORY | O_CLOEXEC));
    const int error = directory.get() >= 0 ? 0 : base_error ? base_error : errno;
    auto take_link = [&](const std::string& link) {
      // What leads nowhere is a link all the same.
      if (link == "." && !base_error) return TakeLink(batch, base.get(), name);
      return error ? batch.Fail(error) : TakeLink(batch, directory.get(), link.c_str());
    };
    if (error) {
      for (size_t i = 0; i < request.files.size(); i++) batch.Fail(error);
      for (const std::string& link : request.links) take_link(link);
      for (size_t i = request.files.size() + request.links.size(); i < columns; i++) batch.Fail(error);
      continue;
    }
    for (size_t i = 0; i < request.files.size(); i++) {
      if (are_spaces[i]) {
        TakeSpace(batch, all, directory.get(), request.files[i].c_str(), request.bodies);
      } else {
        TakeFile(batch, all, directory.get(), request.files[i].c_str(), request.limits[i]);
      }
    }
    for (const std::string& link : request.links) take_link(link);
    for (const std::string& list : request.lists) TakeList(batch, all, directory.get(), list.c_str());
    for (const std::string& node : request.nodes) TakeNode(batch, directory.get(), node.c_str());
  }
}

/** Some work in a thread of its own; where no thread is to be had, whoever waits for it does it. */
class Aside {
 public:
  explicit Aside(std::function<void()> work) : work_(std::move(work)) {
    is_running_ = StartJoinable(&thread_, Run, this) == 0;
  }
  Aside(const Aside&) = delete;
  Aside& operator=(const Aside&) = delete;
  ~Aside() {
    if (is_running_) pthread_join(thread_, nullptr);
  }

  void Wait() {
    if (is_running_) {
      pthread_join(thread_, nullptr);
      is_running_ = false;
    } else if (work_) {
      work_();
    }
    work_ = nullptr;
  }

 private:
  static void* Run(void* self) {
    static_cast<Aside*>(self)->work_();
    return nullptr;
  }

  std::function<void()> work_;
  pthread_t thread_{};
  bool is_running_ = false;
};

// The C library reads it out of sysfs, each time.
size_t Threads() {
  static const size_t count = std::min<size_t>(std::thread::hardware_concurrency(), kMostThreads);
  return count;
}

// More threads than one halve the time of a large host, where nearly all of it is spent in the kernel.
std::vector<Batch> TakeAll(const TreeRequest& request) {
  const size_t rows = request.directories.size();
  const size_t count = rows < kRowsWorthAThread ? 1 : Threads();
  std::vector<Batch> parts(count < 2 ? 1 : count);
  if (count < 2) {
    Descriptors all;
    TakeDirectories(parts[0], all, request, 0, rows);
    return parts;
  }
  const pthread_t reader = pthread_self();
  std::vector<std::exception_ptr> failures(count);
  std::vector<std::unique_ptr<Aside>> threads;
  for (size_t i = 0; i < count; i++) {
    threads.push_back(std::make_unique<Aside>([&, i] {
      Descriptors all;
      // Not of who waits, where it has to do this.
      if (!pthread_equal(pthread_self(), reader)) all.Leave();
      try {
        TakeDirectories(parts[i], all, request, rows * i / count, rows * (i + 1) / count);
      } catch (...) {
        failures[i] = std::current_exception();
      }
    }));
  }
  for (const std::unique_ptr<Aside>& thread : threads) thread->Wait();
  size_t size = 0;
  for (size_t i = 0; i < count; i++) {
    if (failures[i]) std::rethrow_exception(failures[i]);
    size += parts[i].data.size();
  }
  if (size > kMaximumBatch) throw std::length_error("the batch is too large");
  return parts;
}

/** What some work brings, once. Whoever does not ask for it need not wait for it. */
class Reading {
 public:
  explicit Reading(std::function<std::vector<Batch>()> work) : work_(std::move(work)) {}

  static std::shared_ptr<Reading> Begin(std::function<std::vector<Batch>()> work) {
    const auto reading = std::make_shared<Reading>(std::move(work));
    auto held = std::make_unique<std::shared_ptr<Reading>>(reading);
    const auto body = [](void* data) -> void* {
      const std::unique_ptr<std::shared_ptr<Reading>> held(static_cast<std::shared_ptr<Reading>*>(data));
      prctl(PR_SET_NAME, "vfio-look");
      (*held)->Work();
      return nullptr;
    };
    reading->is_begun_ = StartThread(body, held.get()) == 0;
    if (reading->is_begun_) held.release();
    return reading;
  }

  std::vector<Batch> Wait() {
    if (!is_begun_) Work();
    pthread_mutex_lock(&mutex_);
    while (!is_done_) pthread_cond_wait(&done_, &mutex_);
    pthread_mutex_unlock(&mutex_);
    if (failure_) std::rethrow_exception(failure_);
    return std::move(parts_);
  }

 private:
  void Work() {
    try {
      parts_ = work_();
    } catch (...) {
      failure_ = std::current_exception();
    }
    pthread_mutex_lock(&mutex_);
    is_done_ = true;
    pthread_cond_signal(&done_);
    pthread_mutex_unlock(&mutex_);
  }

  const std::function<std::vector<Batch>()> work_;
  bool is_begun_ = false;
  // Those of C++ are in parts of its library that are not taken along.
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t done_ = PTHREAD_COND_INITIALIZER;
  bool is_done_ = false;
  std::vector<Batch> parts_;
  std::exception_ptr failure_;
};

}  // namespace

Napi::Function Beside(Napi::Env env, std::function<std::vector<Batch>()> work) {
  const std::shared_ptr<Reading> reading = Reading::Begin(std::move(work));
  return Napi::Function::New(env, [reading](const Napi::CallbackInfo& info) -> Napi::Value {
    try {
      return Batch::ToObject(info.Env(), reading->Wait());
    } catch (const SystemFailure&) {
      throw ToError(info.Env());
    }
  });
}

Napi::Value ReadTree(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsString()) BadArgument(env, "expected a path");
  TreeRequest given{Bytes(info[0].As<Napi::String>()), Names(info[1]), Strings(info[2]),
                  Counts(info[3], kLargestFile),     Strings(info[4]), Strings(info[5]),
                  Strings(info[6]),              Strings(info[7]), Counts(info[8], UINT16_MAX)};
  if (given.limits.size() != given.files.size()) {
    BadArgument(env, "expected a limit for each file");
  }
  const auto request = std::make_shared<const TreeRequest>(std::move(given));
  // Few are read by who waits for them, sooner than a thread would start.
  if (request->directories.size() < kRowsWorthAThread) {
    return Napi::Function::New(env, [request](const Napi::CallbackInfo& asked) -> Napi::Value {
      return Batch::ToObject(asked.Env(), TakeAll(*request));
    });
  }
  return Beside(env, [request] { return TakeAll(*request); });
}

}  // namespace vfio
