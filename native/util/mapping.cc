#include "util/mapping.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>

#include "util/failure.h"

namespace vfio {

/** What the signal handler knows of a mapping: atomics alone, because it may run at any instruction. */
struct Mapping::Slot {
  std::atomic<bool> taken{false};
  std::atomic<uintptr_t> begin{0};
  std::atomic<size_t> size{0};
  std::atomic<bool> lost{false};
};

namespace {

constexpr size_t kMostMappings = 4096;

std::atomic<uint32_t> losses{0};
struct sigaction former;
std::once_flag installed;

size_t PageSize() {
  static const size_t size = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

template <typename Slot>
Slot* Slots() {
  // Never destroyed: the handler stays until the process ends.
  static Slot* const slots = new Slot[kMostMappings];
  return slots;
}

/** Puts a page of ones where nothing answered. */
template <typename Slot>
bool Absorb(uintptr_t address) {
  Slot* const slots = Slots<Slot>();
  for (size_t i = 0; i < kMostMappings; i++) {
    const uintptr_t begin = slots[i].begin.load(std::memory_order_acquire);
    if (begin == 0 || address < begin || address - begin >= slots[i].size.load(std::memory_order_acquire))
      continue;
    void* const page = reinterpret_cast<void*>(address & ~(PageSize() - 1));
    if (::mmap(page, PageSize(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
        MAP_FAILED) {
      return false;
    }
    std::memset(page, 0xff, PageSize());
    slots[i].lost.store(true, std::memory_order_release);
    losses.fetch_add(1, std::memory_order_release);
    return true;
  }
  return false;
}

template <typename Slot>
void OnBusError(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  // Codes above 0 come from the kernel; anything else was sent by a program and has no address.
  const bool absorbed = info->si_code > 0 && Absorb<Slot>(reinterpret_cast<uintptr_t>(info->si_addr));
  errno = saved;
  if (absorbed) return;
  if (former.sa_flags & SA_SIGINFO) {
    former.sa_sigaction(signal, info, context);
  } else if (former.sa_handler == SIG_DFL) {
    // Blocked until this returns, and then it ends the process as it would have without us.
    ::sigaction(signal, &former, nullptr);
    ::raise(signal);
  } else if (former.sa_handler != SIG_IGN) {
    former.sa_handler(signal);
  }
}

template <typename Slot>
void Install() {
  std::call_once(installed, [] {
    PageSize();
    Slots<Slot>();
    struct sigaction action {};
    action.sa_sigaction = OnBusError<Slot>;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigemptyset(&action.sa_mask);
    ::sigaction(SIGBUS, &action, &former);
  });
}

}  // namespace

Mapping::Mapping(const SharedFd& file, const char* request, int64_t position, size_t size)
    : file_(file), request_(request), position_(position), size_(size) {
  Install<Slot>();
  Slot* const slots = Slots<Slot>();
  for (size_t i = 0; i < kMostMappings && slot_ == nullptr; i++) {
    if (!slots[i].taken.exchange(true)) slot_ = &slots[i];
  }
  if (slot_ == nullptr) throw SystemFailure(ENOMEM, "mmap", request, file->path());
  try {
    MapAt(nullptr, 0);
  } catch (...) {
    slot_->taken.store(false);
    throw;
  }
  slot_->lost.store(false);
  slot_->size.store(size);
  slot_->begin.store(reinterpret_cast<uintptr_t>(data_), std::memory_order_release);
}

Mapping::~Mapping() {
  slot_->begin.store(0);
  ::munmap(data_, size_);
  slot_->taken.store(false);
}

void Mapping::MapAt(void* where, int flags) const {
  const SharedFd file = file_.lock();
  if (!file) throw Refusal("ERR_VFIO_CLOSED", "the file of this memory is closed");
  void* const data =
      ::mmap(where, size_, PROT_READ | PROT_WRITE, MAP_SHARED | flags, file->number(), position_);
  if (data == MAP_FAILED) throw SystemFailure(errno, "mmap", request_, file->path());
  const_cast<Mapping*>(this)->data_ = static_cast<char*>(data);
}

bool Mapping::lost() const {
  return slot_->lost.load(std::memory_order_acquire);
}

void Mapping::Restore() const {
  if (!lost()) return;
  slot_->lost.store(false);
  MapAt(data_, MAP_FIXED);
}

void Mapping::Release() const {
  slot_->begin.store(0);
  ::mmap(data_, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
         0);
}

std::atomic<uint32_t>& Mapping::Losses() {
  return losses;
}

}  // namespace vfio
