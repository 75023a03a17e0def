#include "host/writer.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "host/batch.h"
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

// In milliseconds: for how long a process that runs may answer nothing.
constexpr int64_t kSlowest = 60'000;
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

int64_t Milliseconds() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000 + now.tv_nsec / 1000000;
}

/**
 * Where a process leaves what it reads for the one that waits, in memory that both have: a message for each file would
 * take longer than the file.
 */
class Board {
 public:
  Board(const std::vector<std::string>& paths, size_t from) : paths_(paths), from_(from) {
    const size_t count = paths.size() - from;
    size_ = sizeof(Head) + count * (sizeof(Answer) + kLargestText);
    // Only what is written to takes memory.
    void* memory =
        mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw SystemFailure(errno, "mmap", "look", paths[from]);
    head_ = new (memory) Head{};
    head_->since.store(Milliseconds(), std::memory_order_relaxed);
    answers_ = reinterpret_cast<Answer*>(head_ + 1);
    texts_ = reinterpret_cast<uint8_t*>(answers_ + count);
  }
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;
  ~Board() { munmap(head_, size_); }

  const void* memory() const { return head_; }
  /** How many of the files, from the first one of this process on. */
  size_t answered() const { return head_->answered.load(std::memory_order_acquire); }
  /** When the last answer came, or the process was started. */
  int64_t since() const { return head_->since.load(std::memory_order_relaxed); }

  /** What the process runs. Whoever waits for it ends it, so it may wait. */
  void ReadEach() {
    size_t used = 0;
    for (size_t at = 0; from_ + at < paths_.size(); at++) {
      const int file = open(paths_[from_ + at].c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY);
      const ssize_t length = file < 0 ? -1 : read(file, texts_ + used, kLargestText);
      answers_[at] = {length < 0 ? -errno : static_cast<int32_t>(length), used};
      if (length > 0) used += static_cast<size_t>(length);
      if (file >= 0) close(file);
      head_->since.store(Milliseconds(), std::memory_order_relaxed);
      head_->answered.store(at + 1, std::memory_order_release);
    }
  }

  void Take(size_t count, Batch& batch) const {
    for (size_t at = 0; at < count; at++) {
      const Answer& answer = answers_[at];
      if (answer.length < 0) {
        batch.Fail(-answer.length);
      } else {
        batch.Add(texts_ + answer.start, static_cast<size_t>(answer.length));
      }
    }
  }

 private:
  struct Head {
    std::atomic<size_t> answered{0};
    std::atomic<int64_t> since{0};
  };
  /** A negated errno, or the number of bytes read, and where they are. */
  struct Answer {
    int32_t length;
    size_t start;
  };

  const std::vector<std::string>& paths_;
  const size_t from_;
  size_t size_;
  Head* head_;
  Answer* answers_;
  uint8_t* texts_;
};

[[noreturn]] void RunReader(int pipe, Board& board) {
  ForgetSignals({SIGPIPE});
  UnblockSignals();
  setsid();
  if (chdir("/") != 0) _exit(1);
  prctl(PR_SET_NAME, "vfio-read");
  // Its end tells that this process has ended.
  if (pipe != 0 && dup2(pipe, 0) != 0) _exit(1);
  CloseFrom(1);
  UnmapShared(board.memory());
  board.ReadEach();
  _exit(0);
}

/** Does a process run, or would it if a processor were free? One that the kernel keeps waiting sleeps. */
bool IsRunning(pid_t pid) {
  char text[512];
  snprintf(text, sizeof text, "/proc/%d/stat", static_cast<int>(pid));
  const int file = open(text, O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  const ssize_t length = read(file, text, sizeof text - 1);
  close(file);
  text[length > 0 ? length : 0] = '\0';
  // A name may have blanks and brackets in it.
  const char* const name_end = strrchr(text, ')');
  return name_end && name_end[1] == ' ' && name_end[2] == 'R';
}

/** What one process answers, until the kernel has kept it waiting for a while; tells how far it came. */
size_t TakeAnswers(const std::vector<std::string>& paths, size_t from, int patience, Batch& batch) {
  Board board(paths, from);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw SystemFailure(errno, "pipe2", "look", paths[from]);
  const pid_t pid = Fork();
  if (pid == 0) RunReader(ends[1], board);
  const int error = errno;
  close(ends[1]);
  if (pid < 0) {
    close(ends[0]);
    throw SystemFailure(error, "fork", "look", paths[from]);
  }
  const int64_t started = Milliseconds();
  int64_t ran = started;
  for (bool ended = false; !ended;) {
    const int64_t now = Milliseconds();
    int64_t left = std::max(ran, board.since()) + patience - now;
    if (left <= 0) {
      // It is slow, and the kernel keeps it from nothing: the machine is busy, or another processor emulated.
      if (now - std::max(started, board.since()) > kSlowest || !IsRunning(pid)) break;
      ran = now;
      left = patience;
    }
    pollfd wait{ends[0], POLLIN, 0};
    const int ready = poll(&wait, 1, static_cast<int>(left));
    ended = ready > 0 || (ready < 0 && errno != EINTR);
  }
  close(ends[0]);
  kill(pid, SIGKILL);
  const size_t count = board.answered();
  board.Take(count, batch);
  // One that waits in the kernel ends only with its answer.
  if (from + count == paths.size()) {
    Reap(AsPointer(pid));
  } else {
    StartThread(Reap, AsPointer(pid));
  }
  return from + count;
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
  return Beside(env, [paths, patience] {
    std::vector<Batch> parts(1);
    Batch& batch = parts[0];
    // The one that was not answered is left out, and those behind it are read by another process.
    int losses = 0;
    for (size_t at = 0; at < paths.size(); at++, losses++) {
      if (losses < kMostLosses) at = TakeAnswers(paths, at, patience, batch);
      if (at < paths.size()) batch.Fail(ETIMEDOUT);
    }
    return parts;
  });
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
