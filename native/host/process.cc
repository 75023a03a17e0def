#include "host/process.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "fd.h"
#include "host/child.h"

// Since Linux 5.3 and 5.1; all processors have the same numbers for them.
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

namespace vfio {
namespace {

/** What a process that is to be started becomes; everything in it was made before it is. */
struct Task {
  std::string file;
  std::vector<char*> arguments;
  std::vector<char*> environment;
  /** What becomes its descriptors 0, 1, 2, … */
  std::vector<int> descriptors;
  /** Room for the same out of the way. */
  std::vector<int> moved;
  /** Where its own pid goes in the environment, with room for ten digits; or null. */
  char* own_pid = nullptr;
  /** Whose foreground it is to be, or −1. */
  int terminal = -1;
  bool has_memlock = false;
  rlimit memlock{};
  bool has_user = false;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
};

/** Which call failed, for whoever waits at the gate. */
enum Step : int32_t { kDescriptors, kForeground, kMemlock, kPrivileges, kCapabilities, kUser, kExecute };
constexpr const char* kSteps[] = {"dup2", "tcsetpgrp", "setrlimit", "prctl", "capset", "setresuid", "execve"};
constexpr int kNotFound = 127;
constexpr char kListenPid[] = "LISTEN_PID=";

struct Fault {
  int32_t step;
  int32_t error;
};

[[noreturn]] void Fail(int gate, Step step) {
  const Fault fault{step, errno};
  WriteAll(gate, &fault, sizeof fault);
  _exit(kNotFound);
}

void Write(char* at, pid_t pid) {
  char digits[12];
  int count = 0;
  for (; pid > 0; pid /= 10) digits[count++] = static_cast<char>('0' + pid % 10);
  while (count > 0) *at++ = digits[--count];
  *at = '\0';
}

/** No capability is left, and none can come back: see capabilities(7). Before the user changes, which takes some. */
void DropPrivileges(int gate) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) Fail(gate, kPrivileges);
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) Fail(gate, kPrivileges);
  for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++) {
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) Fail(gate, kPrivileges);
  }
}

void DropCapabilities(int gate) {
  __user_cap_header_struct head{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3]{};
  if (syscall(SYS_capset, &head, none) != 0) Fail(gate, kCapabilities);
}

/** What the new process runs: all its signals are blocked. */
[[noreturn]] void Become(Task& task, int socket) {
  setpgid(0, 0);
  ForgetSignals({});
  // Out of the way first, since they may be each other's places; the gate stands behind them.
  const int count = static_cast<int>(task.descriptors.size());
  for (int i = 0; i < count; i++) {
    task.moved[i] = fcntl(task.descriptors[i], F_DUPFD_CLOEXEC, count + 2);
    if (task.moved[i] < 0) Fail(socket, kDescriptors);
  }
  int terminal = -1;
  if (task.terminal >= 0 && (terminal = fcntl(task.terminal, F_DUPFD_CLOEXEC, count + 2)) < 0)
    Fail(socket, kDescriptors);
  const int gate = fcntl(socket, F_DUPFD_CLOEXEC, count + 2);
  if (gate < 0) Fail(socket, kDescriptors);
  for (int i = 0; i < count; i++) {
    if (dup2(task.moved[i], i) < 0) Fail(gate, kDescriptors);
  }
  if (dup3(gate, count, O_CLOEXEC) < 0) Fail(gate, kDescriptors);
  if (terminal >= 0 && dup3(terminal, count + 1, O_CLOEXEC) < 0) Fail(gate, kDescriptors);
  // Before it waits: what it had open otherwise would stay so, the ends of other processes among it.
  CloseFrom(count + (terminal >= 0 ? 2 : 1));
  char go;
  if (!ReadAll(count, &go, 1)) _exit(kNotFound);
  if (terminal >= 0 && tcsetpgrp(count + 1, getpid()) != 0) Fail(count, kForeground);
  if (task.has_memlock && setrlimit(RLIMIT_MEMLOCK, &task.memlock) != 0) Fail(count, kMemlock);
  if (task.has_user) {
    DropPrivileges(count);
    // The calls themselves: those of the C library ask all threads of the process that there were.
    if (syscall(SYS_setgroups, task.groups.size(), task.groups.data()) != 0 ||
        syscall(SYS_setresgid, task.gid, task.gid, task.gid) != 0 ||
        syscall(SYS_setresuid, task.uid, task.uid, task.uid) != 0)
      Fail(count, kUser);
    DropCapabilities(count);
  }
  if (task.own_pid) Write(task.own_pid, getpid());
  UnblockSignals();
  execve(task.file.c_str(), task.arguments.data(), task.environment.data());
  Fail(count, kExecute);
}

Napi::Array ListOf(const Napi::Value& value, const char* name) {
  if (!value.IsArray()) BadArgument(value.Env(), std::string(name) + " must be an array");
  return value.As<Napi::Array>();
}

std::vector<std::string> TextsOf(const Napi::Value& value, const char* name) {
  std::vector<std::string> texts;
  const Napi::Array list = ListOf(value, name);
  for (uint32_t i = 0; i < list.Length(); i++) {
    const Napi::Value item = list.Get(i);
    std::string text = item.IsString() ? item.As<Napi::String>().Utf8Value() : std::string(1, '\0');
    // An empty one is an argument too; behind a NUL it would be cut short.
    if (text.find('\0') != std::string::npos)
      BadArgument(value.Env(), std::string(name) + " must be texts without NUL");
    texts.push_back(std::move(text));
  }
  return texts;
}

/** As execve(2) wants them: the texts stay whose they are. */
std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

SharedFd OpenPid(pid_t pid) {
  const std::string name = "process " + std::to_string(pid);
  const int number = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (number < 0) throw SystemFailure(errno, "pidfd_open", "process", name);
  return std::make_shared<const Fd>(number, name);
}

/** The end of a process that is ours and has ended is waited for by nobody else. */
void ReapNow(pid_t pid) {
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void AwaitEnd(const Fd& pidfd) {
  pollfd wait{pidfd.number(), POLLIN, 0};
  while (poll(&wait, 1, -1) < 0) {
    if (errno != EINTR) throw SystemFailure(errno, "poll", "process", pidfd.path());
  }
}

constexpr char kGuardName[] = "vfio-guard";

[[noreturn]] void KeepGuard(int socket, int guarded, const CommandLine& line, char* const* arguments,
                            char* const* environment) {
  // Who stops everything of a service or a terminal must not stop what gives the devices back.
  ForgetSignals({SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2});
  setsid();
  UnblockSignals();
  if (chdir("/") != 0) _exit(1);
  prctl(PR_SET_NAME, kGuardName);
  ShowAs(line, kGuardName, "");
  // Out of the way of each other.
  const int far_socket = fcntl(socket, F_DUPFD_CLOEXEC, 3);
  const int far_guarded = fcntl(guarded, F_DUPFD_CLOEXEC, 3);
  if (far_socket < 0 || far_guarded < 0 || dup2(far_socket, 0) < 0 || dup3(far_guarded, 1, O_CLOEXEC) < 0)
    _exit(1);
  CloseFrom(2);
  UnmapShared();
  // When memory is short, it is what is needed last; where that is not allowed it is one among others.
  const int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (score >= 0) {
    WriteAll(score, "-1000", 5);
    close(score);
  }
  char word;
  ssize_t length;
  while ((length = recv(0, &word, 1, 0)) < 0 && errno == EINTR) {
  }
  // All was done.
  if (length > 0) _exit(0);
  pollfd end{1, POLLIN, 0};
  while (poll(&end, 1, -1) < 0 && errno == EINTR) {
  }
  const int nothing = open("/dev/null", O_RDWR);
  for (int number = 0; number < 3; number++) {
    if (nothing >= 0 && nothing != number) dup2(nothing, number);
  }
  execve(arguments[0], arguments, environment);
  _exit(1);
}

}  // namespace

Napi::FunctionReference Process::Define(Napi::Env env) {
  static constexpr MethodOf kClose{&kClass, CloseLater};
  static constexpr MethodOf kCloseNow{&kClass, CloseNow};
  return DefineClass(env, {
                              DefineStatic<&Process::Start>("start"),
                              DefineStatic<&Process::Open>("open"),
                              DefineMethod<&Process::Proceed>("proceed"),
                              DefineMethod<&Process::Wait>("wait"),
                              DefineMethod<&Process::Reap>("reap"),
                              DefineMethod<&Process::Ended>("ended"),
                              DefineMethod<&Process::Signal>("signal"),
                              Object::DefineMethod("close", kClose),
                              Object::DefineMethod("closeNow", kCloseNow),
                          });
}

Napi::Object Process::Made(Napi::Env env, pid_t pid, SharedFd pidfd, SharedFd gate) {
  const Napi::Object self =
      Adopt(env, std::make_shared<const ProcessEnd>(pid, std::move(pidfd), std::move(gate)));
  Napi::Object(self).Set("pid", Napi::Number::New(env, pid));
  return self;
}

Napi::Value Process::Start(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsObject()) BadArgument(env, "expected what to start");
  const Napi::Object wanted = info[0].As<Napi::Object>();
  Task task;
  task.file = TextArgument(env, wanted.Get("file"), "file");
  std::vector<std::string> arguments = TextsOf(wanted.Get("arguments"), "arguments");
  std::vector<std::string> environment = TextsOf(wanted.Get("environment"), "environment");
  const bool listens = wanted.Get("listen").ToBoolean();
  if (listens) environment.push_back(std::string(kListenPid) + "0000000000");
  task.arguments = Pointers(arguments);
  task.environment = Pointers(environment);
  if (listens) task.own_pid = environment.back().data() + sizeof kListenPid - 1;
  const Napi::Array descriptors = ListOf(wanted.Get("descriptors"), "descriptors");
  for (uint32_t i = 0; i < descriptors.Length(); i++)
    task.descriptors.push_back(DescriptorArgument(env, descriptors[i], "a descriptor"));
  task.moved.resize(task.descriptors.size());
  const Napi::Value terminal = wanted.Get("terminal");
  if (terminal.IsNumber()) task.terminal = DescriptorArgument(env, terminal, "terminal");
  const Napi::Value memlock = wanted.Get("memlock");
  if (memlock.IsNumber()) {
    task.has_memlock = true;
    task.memlock.rlim_cur = task.memlock.rlim_max =
        static_cast<rlim_t>(CheckedInt64(env, memlock, "memlock"));
  }
  const Napi::Value user = wanted.Get("user");
  if (user.IsObject()) {
    const Napi::Object account = user.As<Napi::Object>();
    task.has_user = true;
    task.uid = Uint32Argument(env, account.Get("uid"), "uid");
    task.gid = Uint32Argument(env, account.Get("gid"), "gid");
    const Napi::Array groups = ListOf(account.Get("groups"), "groups");
    for (uint32_t i = 0; i < groups.Length(); i++)
      task.groups.push_back(Uint32Argument(env, groups[i], "a group"));
  }
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    throw SystemFailure(errno, "socketpair", "process", task.file);
  auto gate = std::make_shared<const Fd>(ends[0], task.file);
  pid_t pid;
  {
    const Fd theirs(ends[1], task.file);
    pid = Fork();
    if (pid == 0) Become(task, ends[1]);
    if (pid < 0) throw SystemFailure(errno, "fork", "process", task.file);
  }
  // Both do it: whichever comes first, the group is there for both. It fails once the other has executed.
  setpgid(pid, pid);
  try {
    return Made(env, pid, OpenPid(pid), gate);
  } catch (...) {
    // It ends with the gate.
    gate.reset();
    ReapNow(pid);
    throw;
  }
}

Napi::Value Process::Open(const Napi::CallbackInfo& info) {
  const pid_t pid = DescriptorArgument(info, 0, "pid");
  return Made(info.Env(), pid, OpenPid(pid), nullptr);
}

Napi::Value Process::Proceed(const Napi::CallbackInfo& info) {
  const auto process = owned();
  const SharedFd gate = std::exchange(process->gate, nullptr);
  if (!gate) throw Refusal("ERR_VFIO_BAD_ARGUMENT", "this process does not wait");
  const auto fault = std::make_shared<Fault>(Fault{-1, 0});
  return Work::Start(
      info.Env(), "vfio:start",
      [gate, fault] {
        // What it was made of ends with its execution, and so does the socket.
        const char go = 1;
        if (send(gate->number(), &go, 1, MSG_NOSIGNAL) == 1 && !ReadAll(gate->number(), fault.get(), sizeof *fault))
          *fault = Fault{-1, 0};
      },
      [fault](Napi::Env env) -> Napi::Value {
        if (fault->step < 0) return env.Null();
        Napi::Object answer = Napi::Object::New(env);
        answer.Set("syscall", Napi::String::New(env, kSteps[fault->step]));
        answer.Set("errno", Napi::Number::New(env, fault->error));
        return answer;
      });
}

Napi::Value Process::Wait(const Napi::CallbackInfo& info) {
  const auto process = owned();
  const auto change = std::make_shared<siginfo_t>();
  return Work::Start(
      info.Env(), "vfio:wait",
      [process, change] {
        const std::string name = process->pidfd->path();
        // Its pid stays its own until it is reaped.
        while (waitid(P_PID, static_cast<id_t>(process->pid), change.get(), WEXITED | WSTOPPED | WNOWAIT) != 0) {
          if (errno != EINTR) throw SystemFailure(errno, "waitid", "process", name);
        }
        if (change->si_code != CLD_STOPPED && change->si_code != CLD_TRAPPED) return;
        siginfo_t same;
        waitid(P_PID, static_cast<id_t>(process->pid), &same, WSTOPPED | WNOHANG);
      },
      [change](Napi::Env env) -> Napi::Value {
        Napi::Object answer = Napi::Object::New(env);
        answer.Set("code", Napi::Number::New(env, change->si_code));
        answer.Set("status", Napi::Number::New(env, change->si_status));
        return answer;
      });
}

Napi::Value Process::Reap(const Napi::CallbackInfo& info) {
  siginfo_t end{};
  const int failed = waitid(P_PID, static_cast<id_t>(owned()->pid), &end, WEXITED | WNOHANG);
  if (failed != 0) throw SystemFailure(errno, "waitid", "process", owned()->pidfd->path());
  return Napi::Boolean::New(info.Env(), end.si_pid != 0);
}

Napi::Value Process::Ended(const Napi::CallbackInfo& info) {
  return Work::Start(info.Env(), "vfio:ended", [pidfd = owned()->pidfd] { AwaitEnd(*pidfd); });
}

Napi::Value Process::Signal(const Napi::CallbackInfo& info) {
  const auto process = owned();
  const uint32_t number = Uint32Argument(info, 0, "signal");
  if (syscall(SYS_pidfd_send_signal, process->pidfd->number(), number, nullptr, 0) == 0)
    return Napi::Boolean::New(info.Env(), true);
  // It has ended.
  if (errno == ESRCH) return Napi::Boolean::New(info.Env(), false);
  throw SystemFailure(errno, "pidfd_send_signal", "process", process->pidfd->path());
}

Napi::FunctionReference Guard::Define(Napi::Env env) {
  static constexpr MethodOf kClose{&kClass, CloseLater};
  static constexpr MethodOf kCloseNow{&kClass, CloseNow};
  return DefineClass(env, {
                              DefineStatic<&Guard::Start>("start"),
                              DefineMethod<&Guard::Dismiss>("dismiss"),
                              DefineMethod<&Guard::Ended>("ended"),
                              Object::DefineMethod("close", kClose),
                              Object::DefineMethod("closeNow", kCloseNow),
                          });
}

Napi::Value Guard::Start(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::vector<std::string> arguments = TextsOf(info[0], "arguments");
  std::vector<std::string> environment = TextsOf(info[1], "environment");
  if (arguments.empty()) BadArgument(env, "a guard needs a program");
  const std::vector<char*> argv = Pointers(arguments);
  const std::vector<char*> envp = Pointers(environment);
  const CommandLine line = FindCommandLine();
  const SharedFd itself = OpenPid(getpid());
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    throw SystemFailure(errno, "socketpair", "guard", kGuardName);
  auto ours = std::make_shared<const Fd>(ends[0], kGuardName);
  const Fd theirs(ends[1], kGuardName);
  const pid_t pid = Fork();
  if (pid == 0) KeepGuard(ends[1], itself->number(), line, argv.data(), envp.data());
  if (pid < 0) throw SystemFailure(errno, "fork", "guard", kGuardName);
  const Napi::Object self = Adopt(env, std::make_shared<const GuardEnd>(pid, std::move(ours)));
  Napi::Object(self).Set("pid", Napi::Number::New(env, pid));
  return self;
}

Napi::Value Guard::Dismiss(const Napi::CallbackInfo& info) {
  const char done = 1;
  // One that has ended needs no word.
  send(owned()->socket->number(), &done, 1, MSG_NOSIGNAL);
  return info.Env().Undefined();
}

Napi::Value Guard::Ended(const Napi::CallbackInfo& info) {
  return Work::Start(info.Env(), "vfio:guard", [guard = owned()] { ReapNow(guard->pid); });
}

}  // namespace vfio
