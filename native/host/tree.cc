#include "host/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "util/arguments.h"

namespace vfio {

namespace {

// UTF-8, but a lone surrogate from U+DC80 on stands for a byte that is none (lib/sysfs/bytes.ts).
std::string Bytes(const Napi::String& text) {
  std::u16string units = text.Utf16Value();
  bool plain = true;
  for (char16_t unit : units) plain = plain && (unit & 0xf800) != 0xd800;
  if (plain) return text.Utf8Value();
  std::string out;
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
  for (uint32_t i = 0; i < array.Length(); i++) {
    Napi::Value item = array.Get(i);
    if (!item.IsString()) BadArgument(value.Env(), "expected an array of strings");
    out.push_back(Bytes(item.As<Napi::String>()));
  }
  return out;
}

namespace {

// Spans are 32-bit signed: a batch stays far below that.
constexpr size_t kMaximumBatch = 1u << 30;
constexpr size_t kRowsWorthAThread = 64;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
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

// Bytes of all entries one behind the other, and for each entry where it starts and how long it is.
class Batch {
 public:
  void Fail(int error) {
    spans.push_back(-error);
    spans.push_back(0);
  }

  void Add(const uint8_t* bytes, size_t length) {
    spans.push_back(static_cast<int32_t>(data.size()));
    spans.push_back(static_cast<int32_t>(length));
    data.insert(data.end(), bytes, bytes + length);
  }

  // Keeps what `read(into, limit)` brings.
  template <typename Read>
  void Take(uint32_t limit, Read read) {
    if (scratch_.size() < limit) scratch_.resize(limit);
    ssize_t length = read(scratch_.data(), limit);
    if (length < 0) return Fail(errno);
    Add(scratch_.data(), static_cast<size_t>(length));
  }

  void Append(const Batch& other) {
    int32_t shift = static_cast<int32_t>(data.size());
    for (size_t i = 0; i < other.spans.size(); i += 2) {
      int32_t start = other.spans[i];
      spans.push_back(start < 0 ? start : start + shift);
      spans.push_back(other.spans[i + 1]);
    }
    data.insert(data.end(), other.data.begin(), other.data.end());
  }

  std::vector<uint8_t> data;
  std::vector<int32_t> spans;

 private:
  std::vector<uint8_t> scratch_;
};

struct TreeRequest {
  std::string root;
  std::vector<std::string> directories, files;
  // How much of each file is read, in bytes.
  std::vector<uint32_t> limits;
  std::vector<std::string> links, lists, nodes;
};

constexpr uint32_t kLargestFile = 1 << 20;

void TakeFile(Batch& batch, int directory, const char* name, uint32_t limit) {
  // O_NONBLOCK: a FIFO in a hostile tree must not hang the reader.
  Descriptor file(openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (file.get() < 0) return batch.Fail(errno);
  batch.Take(limit, [&](uint8_t* into, size_t size) { return read(file.get(), into, size); });
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
void TakeList(Batch& batch, int directory, const char* name) {
  Descriptor opened(openat(directory, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
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

void TakeDirectories(Batch& batch, const TreeRequest& request, size_t from, size_t to) {
  size_t columns = request.files.size() + request.links.size() + request.lists.size() +
                   request.nodes.size();
  Descriptor base(open(request.root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  int base_error = base.get() < 0 ? errno : 0;
  for (size_t row = from; row < to; row++) {
    const char* name = request.directories[row].c_str();
    Descriptor directory(base_error ? -1 : openat(base.get(), name, O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (directory.get() < 0) {
      int error = base_error ? base_error : errno;
      for (size_t i = 0; i < columns; i++) batch.Fail(error);
      continue;
    }
    for (size_t i = 0; i < request.files.size(); i++) {
      TakeFile(batch, directory.get(), request.files[i].c_str(), request.limits[i]);
    }
    for (const std::string& link : request.links) TakeLink(batch, directory.get(), link.c_str());
    for (const std::string& list : request.lists) TakeList(batch, directory.get(), list.c_str());
    for (const std::string& node : request.nodes) TakeNode(batch, directory.get(), node.c_str());
  }
}

// A second thread halves the time of a large host, where nearly all of it is spent in the kernel.
Batch TakeAll(const TreeRequest& request) {
  size_t rows = request.directories.size();
  Batch first;
  if (rows < kRowsWorthAThread || std::thread::hardware_concurrency() < 2) {
    TakeDirectories(first, request, 0, rows);
    return first;
  }
  Batch second;
  std::exception_ptr failure;
  std::thread helper([&] {
    try {
      TakeDirectories(second, request, rows / 2, rows);
    } catch (...) {
      failure = std::current_exception();
    }
  });
  try {
    TakeDirectories(first, request, 0, rows / 2);
  } catch (...) {
    helper.join();
    throw;
  }
  helper.join();
  if (failure) std::rethrow_exception(failure);
  if (first.data.size() + second.data.size() > kMaximumBatch)
    throw std::length_error("the batch is too large");
  first.Append(second);
  return first;
}

}  // namespace

Napi::Value ReadTree(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsString()) BadArgument(env, "expected a path");
  TreeRequest request{Bytes(info[0].As<Napi::String>()), Strings(info[1]), Strings(info[2]),
                  Counts(info[3], kLargestFile),     Strings(info[4]), Strings(info[5]),
                  Strings(info[6])};
  if (request.limits.size() != request.files.size()) {
    BadArgument(env, "expected a limit for each file");
  }
  Batch batch = TakeAll(request);

  // Copied once into memory that JavaScript owns: external buffers are forbidden in some runtimes.
  Napi::Uint8Array data = Napi::Uint8Array::New(env, batch.data.size());
  if (!batch.data.empty()) memcpy(data.Data(), batch.data.data(), batch.data.size());
  Napi::Int32Array spans = Napi::Int32Array::New(env, batch.spans.size());
  if (!batch.spans.empty()) memcpy(spans.Data(), batch.spans.data(), batch.spans.size() * sizeof(int32_t));
  Napi::Object result = Napi::Object::New(env);
  result.Set("data", data);
  result.Set("spans", spans);
  return result;
}

}  // namespace vfio
