#include "host/writer.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "host/child.h"
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
struct WriterProcess {
  pid_t pid;
  int socket;
};
std::mutex started_lock;
std::vector<WriterProcess>& Started() {
  // Never destroyed: a worker may outlive the rest.
  static auto* const started = new std::vector<WriterProcess>;
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

// From here on what the new process runs: only calls that are safe in a signal handler.

char path_of_request[PATH_MAX];
char text_of_request[kLargestText];

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
  ForgetSignals({SIGPIPE});
  UnblockSignals();
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
  const pid_t pid = Fork();
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
  // What stops everything of a service must not stop a change half-way; it ends with its socket.
  ForgetSignals({SIGINT, SIGTERM, SIGHUP, SIGPIPE});
  UnblockSignals();
  setsid();
  if (chdir("/") != 0) _exit(1);
  prctl(PR_SET_NAME, kName);
  ShowAs(line, kName, "");
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
    ShowAs(line, kName, path_of_request);
    answer = Perform(question);
    ShowAs(line, kName, "");
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
    const pid_t pid = Fork();
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
    for (const WriterProcess& process : Started()) is_known = is_known || process.socket == socket;
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
    for (WriterProcess& process : Started()) {
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
