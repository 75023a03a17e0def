#include "host/writer.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "host/tree.h"
#include "util/arguments.h"
#include "util/failure.h"
#include "util/work.h"

namespace vfio {
namespace {

constexpr char kName[] = "vfio-write";
// What sysfs takes and gives is a page at most.
constexpr size_t kLargestText = 4096;

// As many files as may be left unanswered before no more are asked for.
constexpr int kMostLosses = 3;

struct Question {
  uint32_t write;
  uint32_t path_length;
  uint32_t text_length;
};

/** The processes that were started and not reaped yet, with their sockets: no other number is taken for one of them. */
struct Process {
  pid_t pid;
  int socket;
};
std::mutex started_lock;
std::vector<Process>& Started() {
  // Never destroyed: a worker may outlive the rest.
  static auto* const started = new std::vector<Process>;
  return *started;
}

void* AsPointer(pid_t pid) {
  return reinterpret_cast<void*>(static_cast<intptr_t>(pid));
}

/** Waits for the end of a process, on whatever thread. */
void* Reap(void* pid) {
  while (waitpid(static_cast<pid_t>(reinterpret_cast<intptr_t>(pid)), nullptr, 0) < 0 && errno == EINTR) {
  }
  return nullptr;
}

/** Where the kernel finds the command line of this process. */
struct CommandLine {
  char* start = nullptr;
  size_t size = 0;
};

CommandLine FindCommandLine() {
  char text[4096];
  const int file = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
  if (file < 0) return {};
  const ssize_t length = read(file, text, sizeof text - 1);
  close(file);
  text[length > 0 ? length : 0] = '\0';
  // A name may have blanks and brackets in it. Behind it are the fields of proc(5) from 3 on; these are 48 and 49.
  const char* at = strrchr(text, ')');
  for (int field = 2; at && field < 48; field++) {
    at = strchr(at, ' ');
    if (at) at++;
  }
  if (!at) return {};
  char* next = nullptr;
  const uintptr_t start = strtoull(at, &next, 10);
  const uintptr_t end = strtoull(next, nullptr, 10);
  if (start == 0 || end <= start) return {};
  return {reinterpret_cast<char*>(start), end - start};
}

// From here on what the new process runs: other threads may have had any lock when it was made, so only
// calls that are safe in a signal handler.

char path_of_request[PATH_MAX];
char text_of_request[kLargestText];

/** ps shows what it does in place of the program that it was made from. */
void ShowAs(const CommandLine& line, const char* what) {
  const size_t name = sizeof kName - 1;
  if (line.size < name + 2) return;
  memset(line.start, 0, line.size);
  memcpy(line.start, kName, name);
  const size_t room = line.size - name - 2;
  const size_t length = strnlen(what, room);
  if (length == 0) return;
  line.start[name] = ' ';
  memcpy(line.start + name + 1, what, length);
}

void CloseFrom(int first) {
#ifdef SYS_close_range
  if (syscall(SYS_close_range, first, ~0U, 0) == 0) return;
#endif
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const int last = limit.rlim_cur > 1 << 20 ? 1 << 20 : static_cast<int>(limit.rlim_cur);
  for (int descriptor = first; descriptor < last; descriptor++) close(descriptor);
}

/** A mapping of a device holds it open; none is needed here. Lines are `start-end rw-s …`. */
void UnmapShared() {
  for (bool again = true; again;) {
    again = false;
    const int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (maps < 0) return;
    uintptr_t numbers[2] = {0, 0};
    int field = 0;
    bool is_shared = false;
    char chunk[4096];
    ssize_t length;
    while ((length = read(maps, chunk, sizeof chunk)) > 0) {
      for (ssize_t i = 0; i < length; i++) {
        const char c = chunk[i];
        if (c == '\n') {
          if (is_shared && munmap(reinterpret_cast<void*>(numbers[0]), numbers[1] - numbers[0]) == 0)
            again = true;
          numbers[0] = numbers[1] = 0;
          field = 0;
          is_shared = false;
        } else if (field < 2) {
          if (c == '-' || c == ' ') {
            field++;
          } else {
            numbers[field] = numbers[field] * 16 + static_cast<uintptr_t>(c <= '9' ? c - '0' : c - 'a' + 10);
          }
        } else if (field == 2) {
          if (c == ' ') field++;
          if (c == 's') is_shared = true;
        }
      }
    }
    close(maps);
  }
}

bool ReadAll(int socket, void* into, size_t size) {
  char* at = static_cast<char*>(into);
  while (size > 0) {
    const ssize_t length = read(socket, at, size);
    if (length < 0 && errno == EINTR) continue;
    if (length <= 0) return false;
    at += length;
    size -= static_cast<size_t>(length);
  }
  return true;
}

bool WriteAll(int socket, const void* from, size_t size) {
  const char* at = static_cast<const char*>(from);
  while (size > 0) {
    const ssize_t length = write(socket, at, size);
    if (length < 0 && errno == EINTR) continue;
    if (length <= 0) return false;
    at += length;
    size -= static_cast<size_t>(length);
  }
  return true;
}

/** The beginning of a question, and the lock that comes with it: −1 for none. */
bool Receive(int socket, Question& question, int& lock) {
  lock = -1;
  iovec part{&question, sizeof question};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t length;
  do {
    length = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (length < 0 && errno == EINTR);
  if (length <= 0) return false;
  const cmsghdr* head = CMSG_FIRSTHDR(&message);
  if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS)
    memcpy(&lock, CMSG_DATA(head), sizeof lock);
  const size_t got = static_cast<size_t>(length);
  return ReadAll(socket, reinterpret_cast<char*>(&question) + got, sizeof question - got);
}

/** One call, as whoever asks would make it. The answer is a negated errno, or the number of bytes read. */
int32_t Perform(const Question& question) {
  // Without O_CREAT: a file that sysfs does not have must not come to be elsewhere.
  const int file = open(path_of_request, (question.write ? O_WRONLY : O_RDONLY) | O_CLOEXEC | O_NOCTTY);
  if (file < 0) return -errno;
  const ssize_t length = question.write ? write(file, text_of_request, question.text_length)
                                        : read(file, text_of_request, sizeof text_of_request);
  int32_t answer = length < 0 ? -errno : static_cast<int32_t>(length);
  if (question.write && length >= 0)
    answer = length == static_cast<ssize_t>(question.text_length) ? 0 : -EIO;
  close(file);
  return answer;
}

/** Reads one file after the other, with the answer on each: a word as of Perform(), and the bytes. */
[[noreturn]] void ReadEach(int pipe, const std::vector<std::string>& paths, size_t from) {
  for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
  signal(SIGPIPE, SIG_IGN);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  setsid();
  if (chdir("/") != 0) _exit(1);
  prctl(PR_SET_NAME, "vfio-read");
  if (pipe != 0 && dup2(pipe, 0) != 0) _exit(1);
  CloseFrom(1);
  UnmapShared();
  for (size_t at = from; at < paths.size(); at++) {
    int32_t answer = 0;
    // Whoever waits for it ends this process, so it may wait.
    const int file = open(paths[at].c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY);
    ssize_t length = file < 0 ? -1 : read(file, text_of_request, sizeof text_of_request);
    answer = length < 0 ? -errno : static_cast<int32_t>(length);
    if (file >= 0) close(file);
    if (!WriteAll(0, &answer, sizeof answer)) break;
    if (answer > 0 && !WriteAll(0, text_of_request, static_cast<size_t>(answer))) break;
  }
  _exit(0);
}
/** What one process answers, until it has not answered for a while; tells how far it came. */
size_t TakeAnswers(const std::vector<std::string>& paths, size_t from, int patience,
                   std::vector<std::string>& texts, std::vector<int32_t>& answers) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw SystemFailure(errno, "pipe2", "look", paths[from]);
  const pid_t pid = fork();
  if (pid == 0) ReadEach(ends[1], paths, from);
  const int error = errno;
  close(ends[1]);
  if (pid < 0) {
    close(ends[0]);
    throw SystemFailure(error, "fork", "look", paths[from]);
  }
  std::string got;
  size_t at = from;
  bool ended = false;
  while (at < paths.size() && !ended) {
    pollfd wait{ends[0], POLLIN, 0};
    const int ready = poll(&wait, 1, patience);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) break;
    char chunk[1 << 16];
    const ssize_t length = read(ends[0], chunk, sizeof chunk);
    ended = length <= 0;
    if (length > 0) got.append(chunk, static_cast<size_t>(length));
    size_t taken = 0;
    while (at < paths.size() && got.size() - taken >= sizeof(int32_t)) {
      int32_t answer;
      memcpy(&answer, got.data() + taken, sizeof answer);
      const size_t size = sizeof answer + (answer > 0 ? static_cast<size_t>(answer) : 0);
      if (got.size() - taken < size) break;
      answers[at] = answer;
      if (answer > 0) texts[at].assign(got, taken + sizeof answer, static_cast<size_t>(answer));
      taken += size;
      at++;
    }
    got.erase(0, taken);
  }
  close(ends[0]);
  kill(pid, SIGKILL);
  // One that waits in the kernel ends only with its answer.
  if (at == paths.size()) {
    Reap(AsPointer(pid));
  } else {
    StartThread(Reap, AsPointer(pid));
  }
  return at;
}

[[noreturn]] void Serve(int socket, const CommandLine& line) {
  for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
  // What stops everything of a service must not stop a change half-way; it ends with its socket.
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) signal(number, SIG_IGN);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  setsid();
  if (chdir("/") != 0) _exit(1);
  prctl(PR_SET_NAME, kName);
  ShowAs(line, "");
  if (socket != 0 && dup2(socket, 0) != 0) _exit(1);
  // A reader of the caller's output must not wait for this process.
  CloseFrom(1);
  UnmapShared();
  int32_t answer = 0;
  if (!WriteAll(0, &answer, sizeof answer)) _exit(0);
  Question question;
  int lock;
  while (Receive(0, question, lock)) {
    if (question.path_length >= sizeof path_of_request || question.text_length > sizeof text_of_request)
      _exit(1);
    if (!ReadAll(0, path_of_request, question.path_length)) _exit(0);
    if (!ReadAll(0, text_of_request, question.text_length)) _exit(0);
    path_of_request[question.path_length] = '\0';
    ShowAs(line, path_of_request);
    answer = Perform(question);
    ShowAs(line, "");
    // Before the answer: whoever gets it may give the lock to others.
    if (lock >= 0) close(lock);
    if (!WriteAll(0, &answer, sizeof answer)) break;
    if (answer > 0 && !WriteAll(0, text_of_request, static_cast<size_t>(answer))) break;
  }
  _exit(0);
}

}  // namespace

Napi::Value StartWriter(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  try {
    const CommandLine line = FindCommandLine();
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
      throw SystemFailure(errno, "socketpair", "writer", kName);
    const pid_t pid = fork();
    if (pid == 0) Serve(ends[1], line);
    const int error = errno;
    close(ends[1]);
    if (pid < 0) {
      close(ends[0]);
      throw SystemFailure(error, "fork", "writer", kName);
    }
    {
      const std::lock_guard<std::mutex> guard(started_lock);
      Started().push_back({pid, ends[0]});
    }
    Napi::Object answer = Napi::Object::New(env);
    answer.Set("pid", Napi::Number::New(env, pid));
    answer.Set("socket", Napi::Number::New(env, ends[0]));
    return answer;
  } catch (const SystemFailure&) {
    throw ToError(env);
  }
}

Napi::Value ReadWaiting(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::vector<std::string> paths = Strings(info[0]);
  const int patience = static_cast<int>(Uint32Argument(info, 1, "patience") & INT32_MAX);
  std::vector<std::string> texts(paths.size());
  std::vector<int32_t> answers(paths.size(), -ETIMEDOUT);
  try {
    // The one that was not answered is left out, and those behind it are read by another process.
    int losses = 0;
    for (size_t at = 0; at < paths.size() && losses < kMostLosses; at++, losses++)
      at = TakeAnswers(paths, at, patience, texts, answers);
  } catch (const SystemFailure&) {
    throw ToError(env);
  }
  Napi::Array result = Napi::Array::New(env, paths.size());
  for (uint32_t i = 0; i < paths.size(); i++) {
    if (answers[i] < 0) {
      result.Set(i, Napi::Number::New(env, answers[i]));
      continue;
    }
    Napi::Uint8Array text = Napi::Uint8Array::New(env, texts[i].size());
    memcpy(text.Data(), texts[i].data(), texts[i].size());
    result.Set(i, text);
  }
  return result;
}

Napi::Value AskWriter(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int socket = DescriptorArgument(info, 0, "socket");
  {
    const std::lock_guard<std::mutex> guard(started_lock);
    bool is_known = false;
    for (const Process& process : Started()) is_known = is_known || process.socket == socket;
    if (!is_known) BadArgument(env, "socket is not that of a process that was started");
  }
  const bool is_write = info[1].ToBoolean();
  const std::string path = TextArgument(info, 2, "path");
  const std::string text = info[3].IsString() ? info[3].As<Napi::String>().Utf8Value() : std::string();
  if (path.size() >= PATH_MAX || text.size() > kLargestText) BadArgument(env, "path or text is too long");
  const Question question{is_write, static_cast<uint32_t>(path.size()), static_cast<uint32_t>(text.size())};
  std::string bytes(reinterpret_cast<const char*>(&question), sizeof question);
  bytes += path;
  bytes += text;
  iovec part{bytes.data(), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (info[4].IsNumber()) {
    const int lock = DescriptorArgument(info, 4, "lock");
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof lock);
    memcpy(CMSG_DATA(head), &lock, sizeof lock);
  }
  try {
    // It has read everything before it answered, so there is room.
    const ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent != static_cast<ssize_t>(bytes.size()))
      throw SystemFailure(sent < 0 ? errno : EIO, "sendmsg", "writer", path);
  } catch (const SystemFailure&) {
    throw ToError(env);
  }
  return env.Undefined();
}

Napi::Value ReapWriter(const Napi::CallbackInfo& info) {
  const pid_t pid = static_cast<pid_t>(Uint32Argument(info, 0, "pid"));
  {
    const std::lock_guard<std::mutex> guard(started_lock);
    bool is_known = false;
    for (Process& process : Started()) {
      if (process.pid != pid) continue;
      is_known = true;
      process = Started().back();
      Started().pop_back();
      break;
    }
    if (!is_known) BadArgument(info.Env(), "pid is not that of a process that was started");
  }
  // Its socket closes a moment before it has ended; without a thread it is left to the end of this process.
  if (waitpid(pid, nullptr, WNOHANG) == 0) StartThread(Reap, AsPointer(pid));
  return info.Env().Undefined();
}

}  // namespace vfio
