#include "host/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace vfio {

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

pid_t Fork() {
  sigset_t all, former;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &former);
  const pid_t pid = fork();
  const int error = errno;
  if (pid != 0) pthread_sigmask(SIG_SETMASK, &former, nullptr);
  errno = error;
  return pid;
}

// From here on what the new process runs.

void ForgetSignals(std::initializer_list<int> ignored) {
  for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
  for (const int number : ignored) signal(number, SIG_IGN);
}

void UnblockSignals() {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

void ShowAs(const CommandLine& line, const char* title, const char* what) {
  const size_t name = strlen(title);
  if (line.size < name + 2) return;
  memset(line.start, 0, line.size);
  memcpy(line.start, title, name);
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

// Lines are `start-end rw-s …`.
void UnmapShared(const void* kept) {
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
          if (is_shared && numbers[0] != reinterpret_cast<uintptr_t>(kept) &&
              munmap(reinterpret_cast<void*>(numbers[0]), numbers[1] - numbers[0]) == 0)
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

}  // namespace vfio
