#include "util/mapping.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <vector>

#include "util/failure.h"

// Since Linux 5.14 and 4.17; the headers that this is built with may be older.
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

namespace vfio {

/**
 * What the signal handler knows of a mapping: atomics alone, because it may run at any instruction. A slot is
 * never freed, because the handler may stand on it, and has the next mapping when its own is closed.
 */
struct Mapping::Slot {
  std::atomic<uintptr_t> begin{0};
  std::atomic<size_t> size{0};
  /** How often nothing was behind it. */
  std::atomic<uint32_t> faults{0};
  Slot* next = nullptr;
  Slot* next_free = nullptr;
};

namespace {

constexpr char kGone[] =
    "vfio: memory of a DmaBuffer is gone: somebody cut its file short, or the page failed. Devices may have "
    "another page than this program by now, so the process ends (SIGBUS).\n";
constexpr char kNoPage[] =
    "vfio: nothing answers where device memory is mapped, and the process has no memory mapping left for "
    "ones "
    "in its place (vm.max_map_count, RLIMIT_DATA), so it ends (SIGBUS).\n";

// After a signal, for which the kernel gives back all that one call has taken.
constexpr int64_t kReservedAtOnce = 64 << 20;

Mapping::Counts counts;

size_t PageSize() {
  static const size_t size = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

/** All slots for one kind of mapping. Never destroyed: the handler stays until the process ends. */
template <typename Slot>
struct Slots {
  std::atomic<Slot*> all{nullptr};
  Slot* free = nullptr;

  Slot* Find(uintptr_t address) const {
    for (Slot* slot = all.load(std::memory_order_acquire); slot; slot = slot->next) {
      const uintptr_t begin = slot->begin.load(std::memory_order_acquire);
      if (begin == 0 || address < begin || address - begin >= slot->size.load(std::memory_order_acquire))
        continue;
      // Else it has changed its mapping in between.
      if (slot->begin.load(std::memory_order_acquire) == begin) return slot;
    }
    return nullptr;
  }

  Slot* Take() {
    const std::lock_guard<std::mutex> guard(lock);
    if (Slot* const slot = free) {
      free = slot->next_free;
      return slot;
    }
    Slot* const slot = new Slot;
    slot->next = all.load(std::memory_order_relaxed);
    all.store(slot, std::memory_order_release);
    return slot;
  }

  void Give(Slot* slot) {
    const std::lock_guard<std::mutex> guard(lock);
    slot->next_free = free;
    free = slot;
  }

  std::mutex lock;
};

template <typename Slot>
Slots<Slot>& SlotsOf(Mapping::Behind behind) {
  static auto* const devices = new Slots<Slot>;
  static auto* const memory = new Slots<Slot>;
  return behind == Mapping::Behind::kDevice ? *devices : *memory;
}

/** Maps a page of ones at an address where the device did not answer. */
template <typename Slot>
bool Absorb(Slot& slot, uintptr_t address) {
  void* const page = reinterpret_cast<void*>(address & ~(PageSize() - 1));
  if (::mmap(page, PageSize(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
      MAP_FAILED) {
    return false;
  }
  std::memset(page, 0xff, PageSize());
  slot.faults.fetch_add(1, std::memory_order_release);
  counts.losses.fetch_add(1, std::memory_order_release);
  return true;
}

// Who had the signal before. Such an action is never freed: the handler may be about to call it.
std::atomic<const struct sigaction*> former{nullptr};
std::mutex installing;

const struct sigaction* Keep(const struct sigaction& action) {
  static auto* const known = new std::vector<const struct sigaction*>;
  for (const struct sigaction* one : *known) {
    if (one->sa_sigaction == action.sa_sigaction && one->sa_flags == action.sa_flags) return one;
  }
  known->push_back(new struct sigaction(action));
  return known->back();
}

void End(int signal) {
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  ::sigaction(signal, &action, nullptr);
  // Blocked until the handler returns, and then it ends the process as it would have without us.
  ::raise(signal);
}

template <size_t size>
void EndWith(const char (&sentence)[size], int signal) {
  // Nothing is left to be done where standard error is gone too.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, sentence, size - 1);
  End(signal);
}

void PassOn(int signal, siginfo_t* info, void* context, bool is_fault) {
  const struct sigaction& next = *former.load(std::memory_order_acquire);
  if (next.sa_flags & SA_SIGINFO) {
    next.sa_sigaction(signal, info, context);
  } else if (next.sa_handler == SIG_DFL || (next.sa_handler == SIG_IGN && is_fault)) {
    // The kernel does not let a fault be ignored: it would come again for ever.
    End(signal);
  } else if (next.sa_handler != SIG_IGN) {
    next.sa_handler(signal);
  }
}

template <typename Slot>
void OnBusError(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  // Codes above 0 come from the kernel; anything else was sent by a program and has no address.
  const bool is_fault = info->si_code > 0;
  const uintptr_t address = is_fault ? reinterpret_cast<uintptr_t>(info->si_addr) : 0;
  // No page there; on ARM also a device, or a bridge above it, that answered an access with an error.
  const bool is_unanswered = info->si_code == BUS_ADRERR || info->si_code == BUS_OBJERR;
  Slot* const device = is_unanswered ? SlotsOf<Slot>(Mapping::Behind::kDevice).Find(address) : nullptr;
  if (device) {
    if (!Absorb(*device, address)) EndWith(kNoPage, signal);
  } else if (SlotsOf<Slot>(Mapping::Behind::kMemory).Find(address)) {
    EndWith(kGone, signal);
  } else {
    errno = saved;
    PassOn(signal, info, context, is_fault);
    return;
  }
  errno = saved;
}

/** `over_others`: also where somebody has a handler there by now. */
template <typename Slot>
void Install(bool over_others) {
  const std::lock_guard<std::mutex> guard(installing);
  struct sigaction now {};
  if (::sigaction(SIGBUS, nullptr, &now) < 0 || now.sa_sigaction == OnBusError<Slot>) return;
  const bool is_free =
      !(now.sa_flags & SA_SIGINFO) && (now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN);
  // Who has put a handler over ours passes on what is not his, or else HandleBusErrors() is called: two that
  // each have the other one for former would go in circles.
  if (former.load() && !is_free && !over_others) return;
  // Whatever the handler calls for the first time must have been made.
  PageSize();
  SlotsOf<Slot>(Mapping::Behind::kDevice);
  former.store(Keep(now), std::memory_order_release);
  struct sigaction action {};
  action.sa_sigaction = OnBusError<Slot>;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace

Mapping::Mapping(const SharedFd& file, Behind behind, const char* request, int64_t position, size_t size,
                 size_t alignment)
    : file_(file),
      behind_(behind),
      request_(request),
      position_(position),
      size_(size),
      data_(MapFile(alignment)) {
  try {
    Install<Slot>(false);
    slot_ = SlotsOf<Slot>(behind).Take();
  } catch (...) {
    ::munmap(data_, size_);
    throw;
  }
  counts.open.fetch_add(1);
  restored_.store(slot_->faults.load());
  slot_->size.store(size, std::memory_order_release);
  slot_->begin.store(reinterpret_cast<uintptr_t>(data_), std::memory_order_release);
}

Mapping::~Mapping() {
  Forget();
  ::munmap(data_, size_);
}

void Mapping::Forget() const {
  if (!slot_) return;
  slot_->begin.store(0, std::memory_order_release);
  SlotsOf<Slot>(behind_).Give(slot_);
  slot_ = nullptr;
  counts.open.fetch_sub(1);
}

/** The file at any address of this alignment. */
char* Mapping::MapFile(size_t alignment) const {
  const SharedFd file = file_.lock();
  if (!file) throw Refusal("ERR_VFIO_CLOSED", "the file of this memory is closed");
  const size_t spare = alignment > PageSize() ? alignment : 0;
  char* place = nullptr;
  if (spare > 0) {
    void* const room =
        ::mmap(nullptr, size_ + spare, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) throw SystemFailure(errno, "mmap", request_, file->path());
    place = static_cast<char*>(room);
  }
  const size_t before = spare > 0 ? (spare - reinterpret_cast<uintptr_t>(place) % spare) % spare : 0;
  void* const data = ::mmap(place ? place + before : nullptr, size_, PROT_READ | PROT_WRITE,
                            MAP_SHARED | (place ? MAP_FIXED : 0), file->number(), position_);
  const int error = errno;
  if (data == MAP_FAILED) {
    if (place) ::munmap(place, size_ + spare);
    throw SystemFailure(error, "mmap", request_, file->path());
  }
  if (before > 0) ::munmap(place, before);
  if (spare > before) {
    // Its last page may be only partly asked for.
    const size_t end = (before + size_ + PageSize() - 1) & ~(PageSize() - 1);
    if (end < size_ + spare) ::munmap(place + end, size_ + spare - end);
  }
  return static_cast<char*>(data);
}

bool Mapping::lost() const {
  return slot_ && slot_->faults.load(std::memory_order_acquire) != restored_.load(std::memory_order_acquire);
}

void Mapping::Restore() const {
  if (!lost()) return;
  // One that comes from now on counts as lost still, which is true or does no harm.
  const uint32_t faults = slot_->faults.load(std::memory_order_acquire);
  // Elsewhere first: where this fails, nothing has changed. MAP_FIXED may fail with nothing left at its
  // place.
  char* const fresh = MapFile(0);
  if (::mremap(fresh, size_, size_, MREMAP_MAYMOVE | MREMAP_FIXED, data_) == MAP_FAILED) {
    const int error = errno;
    ::munmap(fresh, size_);
    // Where the old pages are gone already, nobody else may get their place.
    ::mmap(data_, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    throw SystemFailure(error, "mremap", request_, "mapped memory");
  }
  restored_.store(faults, std::memory_order_release);
}

void Mapping::Reserve() const {
  const SharedFd file = file_.lock();
  if (!file) throw Refusal("ERR_VFIO_CLOSED", "the file of this memory is closed");
  const int64_t end = position_ + static_cast<int64_t>(size_);
  struct stat status;
  if (::fstat(file->number(), &status) < 0) throw SystemFailure(errno, "fstat", request_, file->path());
  // No space is taken beyond the end, where no access finds it.
  if (behind_ == Behind::kDevice || end > status.st_size)
    throw Refusal("ERR_VFIO_BAD_ARGUMENT", "this part of the file is not there");
  // All at once, because most file systems keep nothing of a call that fails.
  int64_t most = end - position_;
  for (int64_t at = position_; at < end;) {
    const int64_t length = std::min(end - at, most);
    if (::fallocate(file->number(), FALLOC_FL_KEEP_SIZE, at, length) == 0) {
      at += length;
      if (at == end) return;
    } else if (errno == EINTR) {
      most = kReservedAtOnce;
    } else if (errno == EOPNOTSUPP || errno == ENOSYS) {
      break;
    } else {
      throw SystemFailure(errno, "fallocate", request_, file->path());
    }
  }
  // A file system without reservations: what was written once is there.
  while (::madvise(data_, size_, MADV_POPULATE_WRITE) < 0) {
    if (errno != EINTR) throw SystemFailure(errno, "madvise", request_, file->path());
  }
}

void Mapping::Release() const noexcept {
  Forget();
  constexpr int kOwn = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (::mmap(data_, size_, PROT_READ | PROT_WRITE, kOwn, -1, 0) != MAP_FAILED) return;
  // What cannot be written is no data to the kernel, whose limit may be reached (RLIMIT_DATA). Where even
  // that fails, the file stays until the last owner goes: the finalizer of the buffer, in the next turn of
  // the loop.
  ::mmap(data_, size_, PROT_NONE, kOwn, -1, 0);
}

Mapping::Counts& Mapping::CountsOfProcess() {
  return counts;
}

void Mapping::HandleBusErrors() {
  if (former.load()) Install<Slot>(true);
}

}  // namespace vfio
