// A kernel that fails one look: preloaded, it counts the calls that look below the directory $LOOK_ROOT, and fails one of them.
//
// $LOOK_CONTROL is a file of four 32-bit numbers that a test writes and reads: whether calls count now, how many have been
// made, the number of the one to fail, and its errno.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

struct control {
  uint32_t armed, count, fail_at;
  int32_t error;
};

static struct control *control;
static const char *root;
static size_t root_length;
static pid_t owner;
static long (*real_syscall)(long, ...);
static ssize_t (*real_readlink)(const char *, char *, size_t);

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void load(void) {
  real_syscall = dlsym(RTLD_NEXT, "syscall");
  real_readlink = dlsym(RTLD_NEXT, "readlink");
  root = getenv("LOOK_ROOT");
  const char *path = getenv("LOOK_CONTROL");
  if (!root || !path) return;
  root_length = strlen(root);
  int file = (int)real_syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
  if (file < 0) abort();
  void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (mapped == MAP_FAILED) abort();
  control = mapped;
  owner = getpid();
}

static int is_inside(int directory, const char *name) {
  char path[4096];
  if (name && name[0] == '/') return strncmp(name, root, root_length) == 0;
  if (directory < 0) return 0;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
  ssize_t length = real_readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return strncmp(path, root, root_length) == 0;
}

/** Is this the call to fail? Sets errno then. */
static int fails(int directory, const char *name) {
  // A process that it forks has given up what it shares with this one, the numbers too.
  if (!control || getpid() != owner || !control->armed || !is_inside(directory, name)) return 0;
  if (__atomic_add_fetch(&control->count, 1, __ATOMIC_SEQ_CST) != control->fail_at) return 0;
  errno = control->error;
  return 1;
}

static mode_t mode_of(int flags, va_list arguments) {
  return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

#define OPEN(name)                                           \
  int name(const char *path, int flags, ...) {               \
    va_list arguments;                                       \
    va_start(arguments, flags);                              \
    mode_t mode = mode_of(flags, arguments);                 \
    va_end(arguments);                                       \
    return fails(-1, path) ? -1 : REAL(name)(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                         \
  int name(int directory, const char *path, int flags, ...) { \
    va_list arguments;                                       \
    va_start(arguments, flags);                              \
    mode_t mode = mode_of(flags, arguments);                 \
    va_end(arguments);                                       \
    return fails(directory, path) ? -1 : REAL(name)(directory, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

ssize_t read(int file, void *into, size_t size) {
  return fails(file, NULL) ? -1 : REAL(read)(file, into, size);
}

ssize_t readlink(const char *path, char *into, size_t size) {
  return fails(-1, path) ? -1 : real_readlink(path, into, size);
}

ssize_t readlinkat(int directory, const char *path, char *into, size_t size) {
  return fails(directory, path) ? -1 : REAL(readlinkat)(directory, path, into, size);
}

int scandir64(const char *path, struct dirent64 ***names, int (*filter)(const struct dirent64 *),
              int (*compare)(const struct dirent64 **, const struct dirent64 **)) {
  return fails(-1, path) ? -1 : REAL(scandir64)(path, names, filter, compare);
}

int statx(int directory, const char *path, int flags, unsigned mask, struct statx *into) {
  return fails(directory, path) ? -1 : REAL(statx)(directory, path, flags, mask, into);
}

int statfs64(const char *path, struct statfs64 *into) {
  return fails(-1, path) ? -1 : REAL(statfs64)(path, into);
}

// Node makes statx(2) by its number, and the addon getdents64(2).
long syscall(long number, ...) {
  va_list arguments;
  va_start(arguments, number);
  long given[6];
  for (int i = 0; i < 6; i++) given[i] = va_arg(arguments, long);
  va_end(arguments);
  const char *path = number == SYS_statx ? (const char *)given[1] : NULL;
  if ((number == SYS_statx || number == SYS_getdents64) && fails((int)given[0], path)) return -1;
  return real_syscall(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}
