// A kernel that lies: preloaded, it answers open and ioctl below /dev/vfio and of /dev/iommu from the script in $FAKE_VFIO.
//
// A line of the script:  WHAT RETURN WHEN BYTES
//   WHAT    open:NAME, or the number of an ioctl without its base: 8 for VFIO_DEVICE_GET_REGION_INFO, 12c for a container's 12,
//           17.2 for VFIO_DEVICE_FEATURE with its index, iommu.85 for an ioctl of /dev/iommu, kvm.e0 for one of KVM; 21 for
//           VFIO_MIG_GET_PRECOPY_INFO of any file;
//           or read, write, mmap, memfd, fallocate, madvise, mremap, eventfd, epoll_create, epoll_ctl: these fail as the script
//           says, and are the real ones where it says nothing (fallocate that returns 1 pretends); eventfd and epoll only where
//           the addon calls them; or pagesize: what the system says to the addon that its pages are;
//           or close: how long the close of a device takes
//   RETURN  what the call returns; negative: an errno; "fd": a new device; "bus": it never does, because it
//           touches memory that is not there; "model": what the model answers
//   WHEN    now, a delay in milliseconds, or "gate": once a byte can be read from $FAKE_VFIO.gate
//   BYTES   in hexadecimal, what the call writes where its argument points, and behind the end of a structure where that
//           points; "-" for nothing
// The lines for one call answer it in turn, and the last goes on. What happens is written to $FAKE_VFIO.log; what was asked
// of interrupts and of memory too. What it opens is memory, named after it: a test finds it in /proc/self/fd and fills it.
// Another file that is below $FAKE_ROOT is opened there.
//
// With $FAKE_VFIO_MODEL there is a model of the kernel behind the script (model.h). A program then can open two files more:
//   /dev/vfio/.state                    what the model has, as JSON
//   /dev/vfio/.fail WHAT ERRNO SKIP     empty; from then on one call of this kind fails, after SKIP more of them. WHAT "*" is
//                                       any open, ioctl, eventfd, epoll_create and epoll_ctl
#define _GNU_SOURCE
#define _LARGEFILE64_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "fake-vfio/model.h"

#define MOST_LINES 256
#define MOST_FDS 65536
#define MOST_BYTES 65536

struct line {
  char what[64];
  char result[16];
  char when[16];
  size_t size;
  uint8_t *bytes;
  int used;
};

static struct line lines[MOST_LINES];
static int line_count;
static char *names[MOST_FDS];
static int gate = -1, logfile = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static int (*real_ioctl)(int, unsigned long, ...);

static void find_real(void) {
  if (real_open) return;
  real_close = dlsym(RTLD_NEXT, "close");
  real_ioctl = dlsym(RTLD_NEXT, "ioctl");
  real_open = dlsym(RTLD_NEXT, "open");
}

static void inherit(void);

__attribute__((constructor)) static void load(void) {
  find_real();
  const char *script = getenv("FAKE_VFIO");
  if (!script) return;
  char path[4096];
  snprintf(path, sizeof path, "%s.log", script);
  logfile = real_open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  snprintf(path, sizeof path, "%s.gate", script);
  mkfifo(path, 0600);
  gate = real_open(path, O_RDWR | O_CLOEXEC);
  FILE *file = fopen(script, "re");
  if (!file) abort();
  static char hex[2 * MOST_BYTES + 1];
  struct line *line = lines;
  while (line_count < MOST_LINES &&
         fscanf(file, "%63s %15s %15s %131072s", line->what, line->result, line->when, hex) == 4) {
    line->size = hex[0] == '-' ? 0 : strlen(hex) / 2;
    line->bytes = malloc(line->size + 1);
    for (size_t i = 0; i < line->size; i++) sscanf(hex + 2 * i, "%2hhx", &line->bytes[i]);
    line = &lines[++line_count];
  }
  fclose(file);
  inherit();
}

static void say(const char *format, ...) {
  char text[32768];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (logfile >= 0 && write(logfile, text, length) < 0) abort();
}

static struct line *answer_to(const char *what) {
  struct line *found = NULL;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < line_count; i++) {
    if (strcmp(lines[i].what, what) != 0) continue;
    found = &lines[i];
    if (!found->used) break;
  }
  if (found) found->used = 1;
  pthread_mutex_unlock(&lock);
  return found;
}

static int is_iommufd(const char *name) { return strcmp(name, "/dev/iommu") == 0; }

/** By a group a device has the name that it was asked by, else that of its node. */
static int is_device(const char *name) { return name[0] != '/' || strncmp(name, "/dev/vfio/devices/", 18) == 0; }

/** A failure that the program has asked for. */
struct failure {
  char what[32];
  int error, skip;
};
static struct failure failures[8];
static int failure_count;

/** The errno of a failure whose turn it is, else 0. */
static int failure_of(const char *what, int is_any) {
  int error = 0;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < failure_count && !error; i++) {
    struct failure *each = &failures[i];
    if (strcmp(each->what, what) != 0 && !(is_any && strcmp(each->what, "*") == 0)) continue;
    if (each->skip-- > 0) continue;
    error = each->error;
    *each = failures[--failure_count];
  }
  pthread_mutex_unlock(&lock);
  return error;
}

static int new_fd(const char *name) {
  char memory[200];
  snprintf(memory, sizeof memory, "fake-vfio:%s", name);
  int fd = syscall(SYS_memfd_create, memory, MFD_CLOEXEC);
  if (fd >= 0 && fd < MOST_FDS) names[fd] = strdup(name);
  return fd;
}

/** Files that this program was given when it was started, by one with the same kernel. */
static void inherit(void) {
  for (int fd = 3; fd < 16; fd++) {
    char path[32], target[200], name[200];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, path, target, sizeof target - 1);
    target[length < 0 ? 0 : length] = 0;
    if (sscanf(target, "/memfd:fake-vfio:%199s (deleted)", name) != 1) continue;
    names[fd] = strdup(name);
    if (model_is_on()) model_opened(fd, name);
  }
}

static void wait_for(const char *when) {
  if (strcmp(when, "gate") == 0) {
    char byte;
    while (read(gate, &byte, 1) != 1) continue;
  } else if (strcmp(when, "now") != 0) {
    long ms = atol(when);
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
  }
}

static int finish(const struct line *line, const char *name) {
  if (!line) return 0;
  if (strcmp(line->result, "fd") == 0) return new_fd(name);
  if (strcmp(line->result, "bus") == 0) {
    int empty = syscall(SYS_memfd_create, "empty", MFD_CLOEXEC);
    return *(volatile int *)mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, empty, 0);
  }
  int result = atoi(line->result);
  if (result >= 0) return result;
  errno = -result;
  return -1;
}

static int is_model(const struct line *line) { return model_is_on() && (!line || strcmp(line->result, "model") == 0); }

static int model_open(const char *path) {
  pthread_mutex_lock(&lock);
  int result = model_may_open(path);
  if (result == 0 && (result = new_fd(path)) >= 0) model_opened(result, path);
  pthread_mutex_unlock(&lock);
  if (result >= 0) return result;
  errno = -result;
  return -1;
}

/** A file to be read once that has the state of the model, or nothing where it orders a failure. */
static int control(const char *path) {
  int fd = syscall(SYS_memfd_create, "control", MFD_CLOEXEC);
  pthread_mutex_lock(&lock);
  struct failure *next = &failures[failure_count];
  if (strcmp(path, "/dev/vfio/.state") == 0) {
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    fprintf(out, "{\"pending\":%d,\"model\":", failure_count);
    model_dump(out);
    fputs("}", out);
    fclose(out);
    if (write(fd, text, size) < 0) abort();
    lseek(fd, 0, SEEK_SET);
    free(text);
  } else if (strcmp(path, "/dev/vfio/.fail") == 0) {
    failure_count = 0;
  } else if (failure_count < 8 &&
             sscanf(path, "/dev/vfio/.fail %31s %d %d", next->what, &next->error, &next->skip) == 3) {
    failure_count++;
  } else {
    abort();
  }
  pthread_mutex_unlock(&lock);
  return fd;
}

static int fake_open(const char *path) {
  if (model_is_on() && strncmp(path, "/dev/vfio/.", 11) == 0) return control(path);
  char what[64];
  snprintf(what, sizeof what, "open:%s", strrchr(path, '/') + 1);
  const int error = failure_of(what, 1);
  const struct line *line = error ? NULL : answer_to(what);
  int result = error ? -1 : is_model(line) ? model_open(path) : line ? finish(line, path) : new_fd(path);
  if (error) errno = error;
  say("open %s %s\n", path, result < 0 ? "failed" : "ok");
  return result;
}

int open(const char *path, int flags, ...) {
  find_real();
  va_list arguments;
  va_start(arguments, flags);
  mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  if (strncmp(path, "/dev/vfio/", 10) == 0 || is_iommufd(path)) return fake_open(path);
  const char *root = getenv("FAKE_ROOT");
  char other[4096];
  if (root && path[0] == '/' && snprintf(other, sizeof other, "%s%s", root, path) < (int)sizeof other &&
      access(other, F_OK) == 0)
    path = other;
  return real_open(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return open(path, flags | O_LARGEFILE, mode);
}

int close(int fd) {
  find_real();
  if (fd >= 0 && fd < MOST_FDS && names[fd]) {
    const struct line *line = !is_device(names[fd]) ? NULL : answer_to("close");
    if (line) {
      say("closing %s\n", names[fd]);
      wait_for(line->when);
    }
    say("close %s\n", names[fd]);
    free(names[fd]);
    names[fd] = NULL;
    if (model_is_on()) {
      pthread_mutex_lock(&lock);
      model_closed(fd);
      pthread_mutex_unlock(&lock);
    }
  }
  return real_close(fd);
}

static void say_bytes(const char *what, const void *data, size_t size) {
  char hex[2 * 128 + 1] = "";
  for (size_t i = 0; i < size && i < 128; i++) sprintf(hex + 2 * i, "%02x", ((const uint8_t *)data)[i]);
  say("sent %s %s\n", what, hex);
}

static int fake_kvm(const char *name, unsigned long request, void *argument) {
  char what[16];
  snprintf(what, sizeof what, "kvm.%x", (int)(request & 0xff));
  const struct line *line = answer_to(what);
  int result = finish(line, name);
  if (request == KVM_CREATE_DEVICE && result >= 0) {
    struct kvm_create_device *device = argument;
    say("create %u on %s\n", device->type, name);
    device->fd = new_fd("kvm-vfio");
  } else if (request == KVM_SET_DEVICE_ATTR) {
    const struct kvm_device_attr *attr = argument;
    int file = *(const int32_t *)(uintptr_t)attr->addr, error = errno;
    say("attr %u %llu %s %s\n", attr->group, (unsigned long long)attr->attr, names[file], result < 0 ? "failed" : "ok");
    errno = error;
  }
  return result;
}

static int fails(const char *what) {
  const struct line *line = answer_to(what);
  int result = line ? atoi(line->result) : 0;
  if (result < 0) errno = -result;
  return result < 0;
}

/** Where an address is looked for, and the file of the object that has it. */
struct place {
  uintptr_t address;
  const char *file;
};

static int has_place(struct dl_phdr_info *object, size_t size, void *data) {
  struct place *place = data;
  (void)size;
  for (int at = 0; at < object->dlpi_phnum; at++) {
    const ElfW(Phdr) *header = &object->dlpi_phdr[at];
    if (header->p_type != PT_LOAD || place->address - (object->dlpi_addr + header->p_vaddr) >= header->p_memsz) continue;
    place->file = object->dlpi_name;
    return 1;
  }
  return 0;
}

/**
 * The file that has an address, empty for the program and for what no file has. Not by dladdr, which goes through all symbols of
 * the file: a millisecond for those of Node.
 */
static const char *file_of(const void *address) {
  struct place place = {(uintptr_t)address, ""};
  dl_iterate_phdr(has_place, &place);
  return place.file;
}

/** Whether an address is in the code of the addon: the rest of the program needs the truth, and libuv aborts without epoll. */
static int is_addon(const void *address) {
  const char *end = strrchr(file_of(address), '.');
  return end && strcmp(end, ".node") == 0;
}

static int is_in(const void *address, const char *library) { return strstr(file_of(address), library) != NULL; }

/** The same of a call that a sanitizer may have on its way here: then whoever called that counts. */
static int is_for_addon(const void *caller) {
  if (!is_in(caller, "libasan")) return is_addon(caller);
  void *frames[16];
  const int count = backtrace(frames, 16);
  int at = 0;
  while (at < count && (is_in(frames[at], "libasan") || is_in(frames[at], "fake-vfio"))) at++;
  return at < count && is_addon(frames[at]);
}

/** Whether this call of the addon fails, now. */
static int addon_fails(const char *what, const void *caller) {
  if (!is_addon(caller)) return 0;
  const int error = failure_of(what, 1);
  if (!error) return fails(what);
  errno = error;
  return 1;
}

/** Another number for the same file. */
int fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  const int result = (int)syscall(SYS_fcntl, fd, command, argument);
  if (command != F_DUPFD_CLOEXEC || result < 0 || result >= MOST_FDS || fd < 0 || !names[fd]) return result;
  names[result] = strdup(names[fd]);
  say("duplicate %s\n", names[fd]);
  if (model_is_on()) {
    pthread_mutex_lock(&lock);
    model_duplicated(fd, result);
    pthread_mutex_unlock(&lock);
  }
  return result;
}

int fcntl64(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  return fcntl(fd, command, argument);
}

static int is_ours(int fd) { return fd >= 0 && fd < MOST_FDS && names[fd]; }

/** To the addon, what is below /dev is a character device, of a number that no host has. */
int fstat(int fd, struct stat *into) {
  const int result = (int)syscall(SYS_newfstatat, fd, "", into, AT_EMPTY_PATH);
  if (result == 0 && is_for_addon(__builtin_return_address(0)) && is_ours(fd) && names[fd][0] == '/') {
    into->st_mode = S_IFCHR | 0600;
    into->st_rdev = makedev(4095, 1048575);
  }
  return result;
}

int fstat64(int fd, struct stat64 *into) {
  const int result = (int)syscall(SYS_newfstatat, fd, "", into, AT_EMPTY_PATH);
  if (result == 0 && is_for_addon(__builtin_return_address(0)) && is_ours(fd) && names[fd][0] == '/') {
    into->st_mode = S_IFCHR | 0600;
    into->st_rdev = makedev(4095, 1048575);
  }
  return result;
}

ssize_t readlink(const char *path, char *into, size_t size) {
  int fd = -1;
  if (!is_for_addon(__builtin_return_address(0)) || sscanf(path, "/proc/self/fd/%d", &fd) != 1 || !is_ours(fd))
    return syscall(SYS_readlinkat, AT_FDCWD, path, into, size);
  const char *name = names[fd][0] == '/' ? names[fd] : "anon_inode:[vfio-device]";
  const size_t length = strlen(name) < size ? strlen(name) : size;
  memcpy(into, name, length);
  return (ssize_t)length;
}

int eventfd(unsigned initial, int flags) {
  if (addon_fails("eventfd", __builtin_return_address(0))) return -1;
  return (int)syscall(SYS_eventfd2, initial, flags);
}

int epoll_create1(int flags) {
  if (addon_fails("epoll_create", __builtin_return_address(0))) return -1;
  return (int)syscall(SYS_epoll_create1, flags);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
  if (addon_fails("epoll_ctl", __builtin_return_address(0))) return -1;
  return (int)syscall(SYS_epoll_ctl, epoll, operation, fd, event);
}

ssize_t pread(int fd, void *into, size_t size, off_t position) {
  if (fd >= 0 && fd < MOST_FDS && names[fd] && fails("read")) return -1;
  return syscall(SYS_pread64, fd, into, size, position);
}

ssize_t pread64(int fd, void *into, size_t size, off_t position) { return pread(fd, into, size, position); }

ssize_t pwrite(int fd, const void *from, size_t size, off_t position) {
  if (fd >= 0 && fd < MOST_FDS && names[fd] && fails("write")) return -1;
  return syscall(SYS_pwrite64, fd, from, size, position);
}

ssize_t pwrite64(int fd, const void *from, size_t size, off_t position) {
  return pwrite(fd, from, size, position);
}

static void *map(const void *caller, void *where, size_t size, int protection, int flags, int fd, off_t position) {
  // Only memory of files that the addon shares: the rest is the program's own, and Node's since 26.
  if (fd < 0 || !(flags & MAP_SHARED) || line_count == 0 || !is_addon(caller)) return (void *)syscall(SYS_mmap, where, size, protection, flags, fd, position);
  if (fails("mmap")) return MAP_FAILED;
  const struct line *line = answer_to("pagesize");
  const uintptr_t page = line ? strtoul(line->result, NULL, 10) : 4096;
  // As a kernel with such pages: files from multiples of one on, at addresses that are multiples of one.
  if (position % page != 0 || (flags & MAP_FIXED && (uintptr_t)where % page != 0)) {
    errno = EINVAL;
    return MAP_FAILED;
  }
  if (where == NULL && page > 4096) {
    void *room = (void *)syscall(SYS_mmap, NULL, size + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    where = (void *)(((uintptr_t)room + page - 1) & ~(page - 1));
    flags |= MAP_FIXED;
  }
  return (void *)syscall(SYS_mmap, where, size, protection, flags, fd, position);
}

void *mmap(void *where, size_t size, int protection, int flags, int fd, off_t position) {
  return map(__builtin_return_address(0), where, size, protection, flags, fd, position);
}

int fallocate(int fd, int mode, off_t from, off_t size) {
  const struct line *line = answer_to("fallocate");
  int result = line ? atoi(line->result) : 0;
  if (result < 0) errno = -result;
  if (result != 0) return result < 0 ? -1 : 0;
  return (int)syscall(SYS_fallocate, fd, mode, from, size);
}

int fallocate64(int fd, int mode, off_t from, off_t size) { return fallocate(fd, mode, from, size); }

int madvise(void *where, size_t size, int advice) {
  // Of those, only the one that fills memory: the rest is the program's own.
  if (advice == 23 && fails("madvise")) return -1;
  return (int)syscall(SYS_madvise, where, size, advice);
}

void *mremap(void *from, size_t old_size, size_t size, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  void *to = flags & MREMAP_FIXED ? va_arg(arguments, void *) : NULL;
  va_end(arguments);
  if (flags & MREMAP_FIXED && fails("mremap")) return MAP_FAILED;
  return (void *)syscall(SYS_mremap, from, old_size, size, flags, to);
}

long sysconf(int name) {
  static long (*real_sysconf)(int);
  if (!real_sysconf) real_sysconf = dlsym(RTLD_NEXT, "sysconf");
  if (name == _SC_PAGESIZE && line_count > 0 && is_addon(__builtin_return_address(0))) {
    const struct line *line = answer_to("pagesize");
    if (line) return atol(line->result);
  }
  return real_sysconf(name);
}

void *mmap64(void *where, size_t size, int protection, int flags, int fd, off_t position) {
  return map(__builtin_return_address(0), where, size, protection, flags, fd, position);
}

int memfd_create(const char *name, unsigned flags) {
  return is_addon(__builtin_return_address(0)) && fails("memfd") ? -1 : (int)syscall(SYS_memfd_create, name, flags);
}

/** Some answers go on where a structure points: behind `head` bytes of the script, `at` and as much as `room` says. */
static void spill(const char *what, void *argument, const struct line *line, size_t room) {
  static const struct {
    const char *what;
    size_t head, at;
  } tails[] = {{"iommu.84", 32, 16}, {"iommu.8a", 40, 16}, {"iommu.8c", 48, 40}, {"17.13", 16, 8}};
  for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
    if (strcmp(what, tails[i].what) != 0 || line->size <= tails[i].head) continue;
    const size_t size = line->size - tails[i].head;
    void *where = *(void **)((char *)argument + tails[i].at);
    memcpy(where, line->bytes + tails[i].head, size < room ? size : room);
  }
}

/** How many bytes the program has there. */
static size_t room_of(const char *what, const uint32_t *words) {
  if (strcmp(what, "iommu.84") == 0) return 16 * (size_t)words[2];
  if (strcmp(what, "iommu.8a") == 0) return words[3];
  // Linux does not ask.
  if (strcmp(what, "17.13") == 0) return SIZE_MAX;
  const uint64_t *longs = (const uint64_t *)words;
  return strcmp(what, "iommu.8c") == 0 ? 8 * ((longs[3] / longs[4] + 63) / 64) : 0;
}

/** Where a bitmap goes that a container is asked for; NULL where it is asked for something else. */
static uint64_t *bitmap_of(const char *what, void *argument) {
  uint32_t flags = ((uint32_t *)argument)[1];
  if (strcmp(what, "17c") == 0 && flags & 4) return (uint64_t *)argument + 3;
  if (strcmp(what, "14c") == 0 && flags & 1) return (uint64_t *)argument + 3;
  return NULL;
}

/** Writes down what a structure says that goes to the kernel. */
static void tell(const char *what, void *argument) {
  const uint32_t *words = argument;
  const uint64_t *longs = argument;
  if (strcmp(what, "10") == 0) {
    char fds[16384] = "";
    size_t length = 0;
    for (uint32_t i = 0; 20 + 4 * (i + 1) <= words[0] && length < sizeof fds - 16; i++)
      length += snprintf(fds + length, sizeof fds - length, " %d", (int)words[5 + i]);
    say("asked 10 flags %#x index %u start %u count %u%s%s\n", words[1], words[2], words[3], words[4],
        length > 0 ? " fds" : "", fds);
  } else if (strcmp(what, "13c") == 0) {
    say("asked 13 flags %#x iova %#llx size %#llx from %#llx\n", words[1], (unsigned long long)longs[2],
        (unsigned long long)longs[3], (unsigned long long)longs[1]);
  } else if (strcmp(what, "14c") == 0) {
    say("asked 14 flags %#x iova %#llx size %#llx\n", words[1], (unsigned long long)longs[1],
        (unsigned long long)longs[2]);
  } else if (strcmp(what, "17c") == 0) {
    say("asked 17 flags %#x", words[1]);
    if (words[1] & 4) say(" iova %#llx size %#llx", (unsigned long long)longs[1], (unsigned long long)longs[2]);
    say("\n");
  }
  const uint64_t *bitmap = bitmap_of(what, argument);
  if (bitmap) say("asked bitmap page %#llx bytes %llu\n", (unsigned long long)bitmap[0], (unsigned long long)bitmap[1]);
}

int ioctl(int fd, unsigned long request, ...) {
  find_real();
  va_list arguments;
  va_start(arguments, request);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  if (request == _IO(';', 121)) {
    const struct line *line = answer_to("21");
    if (line) memcpy(argument, line->bytes, line->size);
    if (line) return finish(line, "");
  }
  if (fd < 0 || fd >= MOST_FDS || !names[fd]) return real_ioctl(fd, request, argument);

  if ((request >> 8 & 0xff) == KVMIO) return fake_kvm(names[fd], request, argument);

  const int is_of_iommu = is_iommufd(names[fd]), of_device = is_device(names[fd]);
  int number = (int)(request & 0xff) - (is_of_iommu ? 0 : 100);
  char what[16], name[128];
  // Devices and containers use the numbers from 12 on for different things.
  if (is_of_iommu)
    snprintf(what, sizeof what, "iommu.%x", number);
  else
    snprintf(what, sizeof what, "%d%s", number, number >= 12 && !of_device ? "c" : "");
  const int is_feature = number == 17 && of_device, is_ioeventfd = number == 16 && of_device;
  uint32_t *words = argument;
  if (is_feature) snprintf(what, sizeof what, "17.%u", words[1] & 0xffff);
  if (is_feature || is_ioeventfd || is_of_iommu || (number >= 18 && number <= 20 && of_device)) say_bytes(what, words, words[0]);
  void *log_of_dma = is_feature && (words[1] & 0xffff) == 8 && words[0] == 40 ? (void *)(uintptr_t)((uint64_t *)words)[4] : NULL;
  if (is_feature && (words[1] & 0xffff) == 6 && words[0] == 32)
    say_bytes("ranges", (void *)(uintptr_t)((uint64_t *)words)[3], 16 * words[4]);
  // The name of a device that is to be opened, else what the call is made on.
  snprintf(name, sizeof name, "%s", number == 6 ? (const char *)argument : is_feature && (words[1] & 0xffff) == 11 ? "dma-buf" : names[fd]);
  const int failed = failure_of(what, 1);
  struct line *line = failed ? NULL : answer_to(what);
  say("begin %d %s\n", number, name);
  // Only structures: others are called with a number.
  if (number == 10 || number == 13 || number == 14 || number == 17) tell(what, argument);
  if (line) {
    wait_for(line->when);
    uint64_t *bitmap = !is_feature && number >= 14 ? bitmap_of(what, argument) : NULL;
    if (log_of_dma) {
      memcpy(log_of_dma, line->bytes, line->size);
    } else if (bitmap) {
      memcpy((void *)bitmap[2], line->bytes, line->size < bitmap[1] ? line->size : bitmap[1]);
    } else if (line->size > 0) {
      // As the kernel: never more than the caller says it has room for.
      uint32_t room = *(uint32_t *)argument;
      const size_t behind = is_of_iommu || is_feature ? room_of(what, words) : 0;
      if (behind > 0) spill(what, argument, line, behind);
      memcpy(argument, line->bytes, line->size < room ? line->size : room);
    }
  }
  int result;
  if (failed) {
    result = -1;
    errno = failed;
  } else if (is_model(line)) {
    pthread_mutex_lock(&lock);
    result = model_ioctl(fd, number, argument, new_fd);
    pthread_mutex_unlock(&lock);
    if (result < 0) {
      errno = -result;
      result = -1;
    }
  } else {
    result = finish(line, name);
  }
  int error = errno;
  say("end %d %s\n", number, name);
  errno = error;
  return result;
}
