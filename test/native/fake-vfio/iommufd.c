// An iommufd: address spaces, page tables and bound devices by their numbers. Read from drivers/iommu/iommufd (main.c, ioas.c,
// io_pagetable.c, hw_pagetable.c, device.c) of 6.6, 6.12 and 7.3.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model.h"

enum type { IOAS, HWPT, DEVICE };

struct area {
  uint64_t iova, size;
  int is_file, is_dirty;
  struct area *next;
};

struct range {
  uint64_t start, last;
};

struct object {
  uint32_t id;
  enum type type;
  /** Beside the table of objects. */
  int users;
  // Of an address space; lowest address first.
  struct area *areas;
  struct range *allowed;
  uint32_t allowed_count;
  int small_pages;
  // Of a page table: its address space, or for one within another that one.
  struct object *parent;
  uint32_t flags;
  int is_auto, tracks;
  // Of a device.
  int group;
  struct object *attached;
  struct object *next;
};

struct iommufd {
  /** Its file, and the devices that are bound to it. */
  int users;
  int charges_process;
  /** Lowest number first. */
  struct object *objects;
};

enum { FIXED = 1, WRITE = 2, READ = 4 };
enum { NEST_PARENT = 1, DIRTY_TRACKING = 2, FAULT_ID = 4, PASID = 8 };

// What the IOMMU of a device cannot translate: the window of its interrupts, and more than 48 bits.
static const struct range RESERVED[] = {{0xfee00000, 0xfeefffff}, {1ull << 48, UINT64_MAX}};

static struct object *find(const struct iommufd *iommufd, uint32_t id) {
  struct object *each = iommufd->objects;
  while (each && each->id != id) each = each->next;
  return each;
}

static struct object *find_type(const struct iommufd *iommufd, uint32_t id, enum type type) {
  struct object *found = find(iommufd, id);
  return found && found->type == type ? found : NULL;
}

static struct object *add(struct iommufd *iommufd, enum type type) {
  struct object *made = calloc(1, sizeof *made), **place = &iommufd->objects;
  made->type = type;
  made->id = 1;
  for (; *place && (*place)->id == made->id; place = &(*place)->next) made->id++;
  made->next = *place;
  *place = made;
  return made;
}

static void clear_areas(struct object *ioas) {
  while (ioas->areas) {
    struct area *gone = ioas->areas;
    ioas->areas = gone->next;
    free(gone);
  }
}

static void drop(struct iommufd *iommufd, struct object *gone) {
  struct object **place = &iommufd->objects;
  while (*place != gone) place = &(*place)->next;
  *place = gone->next;
  if (gone->type == HWPT) gone->parent->users--;
  clear_areas(gone);
  free(gone->allowed);
  free(gone);
}

static int destroy(struct iommufd *iommufd, uint32_t id) {
  struct object *gone = find(iommufd, id);
  if (!gone) return -ENOENT;
  // A device is its file's.
  if (gone->users > 0 || gone->type == DEVICE) return -EBUSY;
  drop(iommufd, gone);
  return 0;
}

static struct object *ioas_of(struct object *table) {
  while (table && table->type == HWPT) table = table->parent;
  return table;
}

/** How many page tables an address space has: with one it has what the IOMMU cannot do. */
static int tables_of(const struct iommufd *iommufd, const struct object *ioas) {
  int count = 0;
  for (const struct object *each = iommufd->objects; each; each = each->next)
    count += each->type == HWPT && each->parent == ioas;
  return count;
}

static uint64_t alignment_of(const struct iommufd *iommufd, const struct object *ioas) {
  return tables_of(iommufd, ioas) ? machine.page_size : 1;
}

static struct area *area_at(const struct object *ioas, uint64_t start, uint64_t last) {
  struct area *each = ioas->areas;
  while (each && each->iova + (each->size - 1) < start) each = each->next;
  return each && each->iova <= last ? each : NULL;
}

static const struct range *reserved_at(const struct iommufd *iommufd, const struct object *ioas, uint64_t start,
                                       uint64_t last) {
  if (!tables_of(iommufd, ioas)) return NULL;
  for (int i = 0; i < 2; i++)
    if (start <= RESERVED[i].last && last >= RESERVED[i].start) return &RESERVED[i];
  return NULL;
}

static uint64_t locked_by(const struct object *ioas) {
  uint64_t bytes = 0;
  for (const struct area *each = ioas->areas; each; each = each->next) bytes += each->size;
  return bytes;
}

/** Where a mapping goes that may go anywhere, aligned as its size. */
static int choose(const struct iommufd *iommufd, const struct object *ioas, uint64_t size, uint64_t *iova) {
  uint64_t alignment = machine.page_size;
  if (size >= UINT64_MAX / 2) return -EOVERFLOW;
  while (alignment < size && alignment < (1 << 21)) alignment *= 2;
  const struct range everywhere = {machine.page_size, UINT64_MAX - machine.page_size};
  const struct range *allowed = ioas->allowed_count ? ioas->allowed : &everywhere;
  for (uint32_t i = 0; i < (ioas->allowed_count ? ioas->allowed_count : 1); i++) {
    uint64_t at = allowed[i].start;
    for (;;) {
      const uint64_t aligned = (at + alignment - 1) & ~(alignment - 1);
      if (aligned < at || aligned > allowed[i].last || allowed[i].last - aligned < size - 1) break;
      const struct range *reserved = reserved_at(iommufd, ioas, aligned, aligned + size - 1);
      const struct area *area = area_at(ioas, aligned, aligned + size - 1);
      if (!reserved && !area) {
        *iova = aligned;
        return 0;
      }
      const uint64_t last = reserved ? reserved->last : area->iova + (area->size - 1);
      if (last == UINT64_MAX) break;
      at = last + 1;
    }
  }
  return -ENOSPC;
}

static int map(const struct iommufd *iommufd, struct object *ioas, uint32_t flags, uint64_t size, uint64_t *iova,
               uint64_t address, int is_file) {
  const uint64_t alignment = alignment_of(iommufd, ioas);
  if (size == 0 || size & (alignment - 1)) return -EINVAL;
  if (!(flags & FIXED)) {
    const int failed = choose(iommufd, ioas, size, iova);
    if (failed) return failed;
  } else {
    if (*iova & (alignment - 1)) return -EINVAL;
    if (*iova + (size - 1) < *iova) return -EOVERFLOW;
    if (reserved_at(iommufd, ioas, *iova, *iova + (size - 1))) return -EINVAL;
    if (area_at(ioas, *iova, *iova + (size - 1))) return -EEXIST;
  }
  if (address & (alignment - 1)) return -EINVAL;
  // Pages are counted once an IOMMU has them.
  if (tables_of(iommufd, ioas) && locked_by(ioas) + size > machine.most_locked) return -ENOMEM;
  struct area **place = &ioas->areas, *made = calloc(1, sizeof *made);
  while (*place && (*place)->iova < *iova) place = &(*place)->next;
  *made = (struct area){*iova, size, is_file, 0, *place};
  *place = made;
  return 0;
}

static int may_map(uint32_t flags, uint64_t iova, uint64_t size) {
  if (flags & ~(FIXED | WRITE | READ)) return -EOPNOTSUPP;
  if (iova == UINT64_MAX || size == UINT64_MAX) return -EOVERFLOW;
  return flags & (WRITE | READ) ? 0 : -EINVAL;
}

static int unmap(struct object *ioas, uint64_t iova, uint64_t *size) {
  uint64_t bytes = 0;
  if (iova == 0 && *size == UINT64_MAX) {
    bytes = locked_by(ioas);
    clear_areas(ioas);
    *size = bytes;
    return 0;
  }
  if (iova == UINT64_MAX || *size == UINT64_MAX) return -EOVERFLOW;
  if (*size == 0) return -EINVAL;
  const uint64_t last = iova + (*size - 1);
  if (last < iova) return -EOVERFLOW;
  for (;;) {
    struct area *each = area_at(ioas, iova, last);
    if (!each) break;
    // It never cuts one in two.
    if (each->iova < iova || each->iova + (each->size - 1) > last) return -ENOENT;
    bytes += each->size;
    struct area **place = &ioas->areas;
    while (*place != each) place = &(*place)->next;
    *place = each->next;
    free(each);
  }
  *size = bytes;
  return bytes || machine.linux_version >= 700 ? 0 : -ENOENT;
}

static int copy(const struct iommufd *iommufd, struct iommu_ioas_copy *ask) {
  int failed = may_map(ask->flags, ask->dst_iova, ask->length);
  if (failed || ask->src_iova == UINT64_MAX) return failed ? failed : -EOVERFLOW;
  struct object *from = find_type(iommufd, ask->src_ioas_id, IOAS), *to = find_type(iommufd, ask->dst_ioas_id, IOAS);
  if (!from) return -ENOENT;
  if (ask->length == 0) return -EINVAL;
  if (ask->src_iova + (ask->length - 1) < ask->src_iova) return -EOVERFLOW;
  // All of it is mapped, by however many calls.
  for (uint64_t at = ask->src_iova, end = at + ask->length; at != end;) {
    const struct area *area = area_at(from, at, at);
    if (!area) return -ENOENT;
    const uint64_t next = area->iova + area->size;
    at = next - ask->src_iova > ask->length ? end : next;
  }
  return to ? map(iommufd, to, ask->flags, ask->length, &ask->dst_iova, 0, 0) : -ENOENT;
}

static int ranges(const struct iommufd *iommufd, struct iommu_ioas_iova_ranges *ask) {
  if (ask->reserved) return -EOPNOTSUPP;
  const struct object *ioas = find_type(iommufd, ask->ioas_id, IOAS);
  if (!ioas) return -ENOENT;
  struct range all[3];
  uint32_t count = 0;
  uint64_t start = 0;
  for (int i = 0; i < 2 && tables_of(iommufd, ioas); i++) {
    all[count++] = (struct range){start, RESERVED[i].start - 1};
    start = RESERVED[i].last + 1;
  }
  if (count == 0) all[count++] = (struct range){0, UINT64_MAX};
  const uint32_t room = ask->num_iovas;
  if (room > 0) memcpy((void *)(uintptr_t)ask->allowed_iovas, all, sizeof *all * (room < count ? room : count));
  ask->num_iovas = count;
  ask->out_iova_alignment = alignment_of(iommufd, ioas);
  return count > room ? -EMSGSIZE : 0;
}

static int allow(const struct iommufd *iommufd, const struct iommu_ioas_allow_iovas *ask) {
  if (ask->reserved) return -EOPNOTSUPP;
  struct object *ioas = find_type(iommufd, ask->ioas_id, IOAS);
  if (!ioas) return -ENOENT;
  const struct range *given = (void *)(uintptr_t)ask->allowed_iovas;
  for (uint32_t i = 0; i < ask->num_iovas; i++) {
    if (given[i].start >= given[i].last) return -EINVAL;
    for (uint32_t j = 0; j < i; j++)
      if (given[i].start <= given[j].last && given[i].last >= given[j].start) return -EINVAL;
  }
  for (uint32_t i = 0; i < ask->num_iovas; i++)
    if (reserved_at(iommufd, ioas, given[i].start, given[i].last)) return -EADDRINUSE;
  free(ioas->allowed);
  ioas->allowed = malloc(sizeof *given * (ask->num_iovas + 1));
  if (ask->num_iovas > 0) memcpy(ioas->allowed, given, sizeof *given * ask->num_iovas);
  ioas->allowed_count = ask->num_iovas;
  return 0;
}

static int option(struct iommufd *iommufd, struct iommu_option *ask) {
  if (ask->reserved || ask->option_id > 1 || ask->op > 1) return -EOPNOTSUPP;
  const int is_get = ask->op == 1;
  if (ask->option_id == 0) {
    if (ask->object_id) return -EOPNOTSUPP;
    if (is_get) {
      ask->val64 = iommufd->charges_process;
      return 0;
    }
    if (iommufd->objects) return -EBUSY;
    if (ask->val64 > 1) return -EINVAL;
    iommufd->charges_process = (int)ask->val64;
    return 0;
  }
  struct object *ioas = find_type(iommufd, ask->object_id, IOAS);
  if (!ioas) return -ENOENT;
  if (is_get) {
    ask->val64 = !ioas->small_pages;
    return 0;
  }
  if (ask->val64 > 1) return -EINVAL;
  if (!ask->val64 && !ioas->small_pages && tables_of(iommufd, ioas) && ioas->areas) return -EINVAL;
  ioas->small_pages = !ask->val64;
  return 0;
}

/** Whether an IOMMU takes what an address space has mapped. */
static int may_have_table(const struct iommufd *iommufd, const struct object *ioas) {
  if (tables_of(iommufd, ioas)) return 0;
  for (const struct area *each = ioas->areas; each; each = each->next) {
    if ((each->iova | each->size) & (machine.page_size - 1)) return -EADDRINUSE;
    for (int i = 0; i < 2; i++)
      if (each->iova <= RESERVED[i].last && each->iova + (each->size - 1) >= RESERVED[i].start) return -EADDRINUSE;
  }
  for (uint32_t i = 0; i < ioas->allowed_count; i++)
    for (int j = 0; j < 2; j++)
      if (ioas->allowed[i].start <= RESERVED[j].last && ioas->allowed[i].last >= RESERVED[j].start) return -EADDRINUSE;
  return locked_by(ioas) > machine.most_locked ? -ENOMEM : 0;
}

static struct object *add_table(struct iommufd *iommufd, struct object *parent, uint32_t flags) {
  struct object *made = add(iommufd, HWPT);
  made->parent = parent;
  made->flags = flags;
  parent->users++;
  return made;
}

static int allocate_hwpt(struct iommufd *iommufd, struct iommu_hwpt_alloc *ask) {
  const uint32_t known = NEST_PARENT | DIRTY_TRACKING | (machine.linux_version >= 611 ? FAULT_ID : 0) |
                         (machine.linux_version >= 614 ? PASID : 0);
  if (ask->flags & ~(machine.linux_version >= 607 ? known : 0) || ask->reserved) return -EOPNOTSUPP;
  if (!ask->data_type != !ask->data_len) return -EINVAL;
  if (!find_type(iommufd, ask->dev_id, DEVICE)) return -ENOENT;
  struct object *parent = find(iommufd, ask->pt_id);
  if (!parent || parent->type == DEVICE) return -EINVAL;
  if (ask->flags & FAULT_ID) return -ENOENT;
  if (parent->type == IOAS) {
    // Data are for a table within another.
    if (ask->data_len) return -EOPNOTSUPP;
    if (ask->flags & PASID) return -EOPNOTSUPP;
    const int failed = may_have_table(iommufd, parent);
    if (failed) return failed;
  } else {
    if (ask->flags & (NEST_PARENT | DIRTY_TRACKING) || !ask->data_len) return -EOPNOTSUPP;
    if (!(parent->flags & NEST_PARENT) || parent->parent->type == HWPT) return -EINVAL;
    // That of VT-d: its address, flags and width.
    if (ask->data_type != 1) return -EOPNOTSUPP;
    if (ask->data_len < 24) return -EINVAL;
  }
  ask->out_hwpt_id = add_table(iommufd, parent, ask->flags)->id;
  return 0;
}

static int hw_info(const struct iommufd *iommufd, struct iommu_hw_info *ask) {
  const uint64_t data[] = {0, 0xd2008c40660462, 0xf020da, 0x5a5a5a5a};
  // Newer kernels tell more.
  const uint32_t size = machine.linux_version >= 700 ? 32 : 24;
  if (ask->flags & ~(machine.linux_version >= 618 ? 1 : 0)) return -EOPNOTSUPP;
  if (!find_type(iommufd, ask->dev_id, DEVICE)) return -ENOENT;
  if (!ask->data_uptr && ask->data_len) return -EINVAL;
  if (ask->flags && ask->data_type > 1) return -EOPNOTSUPP;
  if (ask->data_len > 0) {
    memset((void *)(uintptr_t)ask->data_uptr, 0, ask->data_len);
    memcpy((void *)(uintptr_t)ask->data_uptr, data, ask->data_len < size ? ask->data_len : size);
  }
  ask->data_len = size;
  ask->data_type = 1;
  if (machine.linux_version >= 607) ask->out_capabilities = 1;
  ask->out_max_pasid_log2 = machine.linux_version >= 615 ? 20 : 0;
  return 0;
}

static int set_dirty(const struct iommufd *iommufd, const struct iommu_hwpt_set_dirty_tracking *ask) {
  if (ask->flags & ~1u) return -EOPNOTSUPP;
  struct object *table = find_type(iommufd, ask->hwpt_id, HWPT);
  if (!table || table->parent->type != IOAS) return -ENOENT;
  if (!(table->flags & DIRTY_TRACKING)) return -EOPNOTSUPP;
  table->tracks = ask->flags & 1;
  // The device writes to the first page of each mapping, then and now.
  for (struct area *each = table->parent->areas; each; each = each->next) each->is_dirty = table->tracks;
  return 0;
}

static int get_dirty(const struct iommufd *iommufd, const struct iommu_hwpt_get_dirty_bitmap *ask) {
  if (ask->flags & ~1u || ask->reserved) return -EOPNOTSUPP;
  struct object *table = find_type(iommufd, ask->hwpt_id, HWPT);
  if (!table || table->parent->type != IOAS) return -ENOENT;
  const uint64_t last = ask->iova + (ask->length - 1);
  if (ask->length == 0) return -EINVAL;
  if (last < ask->iova) return -EOVERFLOW;
  if ((ask->iova | (last + 1)) & (machine.page_size - 1) || !ask->page_size) return -EINVAL;
  if ((ask->iova | (last + 1)) & (ask->page_size - 1)) return -EINVAL;
  if (!(table->flags & DIRTY_TRACKING)) return -EOPNOTSUPP;
  if (!table->tracks) return -EINVAL;
  uint64_t *words = (void *)(uintptr_t)ask->data;
  for (struct area *each = table->parent->areas; each; each = each->next) {
    if (!each->is_dirty || each->iova < ask->iova || each->iova > last) continue;
    const uint64_t bit = (each->iova - ask->iova) / ask->page_size;
    words[bit / 64] |= 1ull << (bit % 64);
    if (!(ask->flags & 1)) each->is_dirty = 0;
  }
  return 0;
}

static int change_process(const struct iommufd *iommufd) {
  for (const struct object *each = iommufd->objects; each; each = each->next)
    for (const struct area *area = each->areas; area; area = area->next)
      // Another process may have something else at these addresses.
      if (!area->is_file) return -EINVAL;
  return 0;
}

static int physical(const struct iommufd *iommufd, struct iommu_ioas_noiommu_get_pa *ask) {
  if (ask->flags || ask->reserved) return -EOPNOTSUPP;
  if (!ask->length) return -EINVAL;
  if (ask->iova == UINT64_MAX) return -EOVERFLOW;
  const struct object *ioas = find_type(iommufd, ask->ioas_id, IOAS);
  const struct area *area = ioas ? area_at(ioas, ask->iova, ask->iova) : NULL;
  if (!area) return -ENOENT;
  ask->out_phys = 0x100000000 + ask->iova;
  const uint64_t left = area->iova + area->size - ask->iova;
  if (ask->length > left) ask->length = left;
  return 0;
}

/** What a kernel knows of a structure, and the least it takes. */
static int sizes_of(int number, uint32_t *known, uint32_t *least) {
  const int version = machine.linux_version;
  switch (number) {
    case 0x80: return *known = *least = 8, 0;
    case 0x81: return *known = *least = 12, 0;
    case 0x82: return *known = *least = 24, 0;
    case 0x83: case 0x85: return *known = *least = 40, 0;
    case 0x84: return *known = *least = 32, 0;
    case 0x86: case 0x87: return *known = *least = 24, 0;
    case 0x89: return *known = version >= 611 ? 48 : version >= 607 ? 40 : 24, *least = 24, version < 606 ? -ENOTTY : 0;
    case 0x8a: return *known = version >= 607 ? 40 : 32, *least = 32, version < 606 ? -ENOTTY : 0;
    case 0x8b: return *known = *least = 16, version < 607 ? -ENOTTY : 0;
    case 0x8c: return *known = *least = 48, version < 607 ? -ENOTTY : 0;
    case 0x8f: return *known = *least = 40, version < 613 ? -ENOTTY : 0;
    case 0x92: return *known = *least = 8, version < 613 ? -ENOTTY : 0;
    case 0x95: return *known = *least = 40, version < 703 ? -ENOTTY : 0;
    default: return -ENOTTY;
  }
}

static int answer(struct iommufd *iommufd, int number, void *argument) {
  const uint32_t *words = argument;
  switch (number) {
    case 0x80:
      return destroy(iommufd, words[1]);
    case 0x81: {
      struct iommu_ioas_alloc *ask = argument;
      if (ask->flags) return -EOPNOTSUPP;
      ask->out_ioas_id = add(iommufd, IOAS)->id;
      return 0;
    }
    case 0x82:
      return allow(iommufd, argument);
    case 0x83:
      return copy(iommufd, argument);
    case 0x84:
      return ranges(iommufd, argument);
    case 0x85: {
      struct iommu_ioas_map *ask = argument;
      if (ask->reserved) return -EOPNOTSUPP;
      const int failed = may_map(ask->flags, ask->iova, ask->length);
      struct object *ioas = find_type(iommufd, ask->ioas_id, IOAS);
      if (failed || !ioas) return failed ? failed : -ENOENT;
      return map(iommufd, ioas, ask->flags, ask->length, &ask->iova, ask->user_va, 0);
    }
    case 0x86: {
      struct iommu_ioas_unmap *ask = argument;
      struct object *ioas = find_type(iommufd, ask->ioas_id, IOAS);
      return ioas ? unmap(ioas, ask->iova, &ask->length) : -ENOENT;
    }
    case 0x87:
      return option(iommufd, argument);
    case 0x89:
      return allocate_hwpt(iommufd, argument);
    case 0x8a:
      return hw_info(iommufd, argument);
    case 0x8b:
      return set_dirty(iommufd, argument);
    case 0x8c:
      return get_dirty(iommufd, argument);
    case 0x8f: {
      struct iommu_ioas_map_file *ask = argument;
      const int failed = may_map(ask->flags, ask->iova, ask->length);
      struct object *ioas = find_type(iommufd, ask->ioas_id, IOAS);
      if (failed || !ioas) return failed ? failed : -ENOENT;
      if (fcntl(ask->fd, F_GETFD) < 0) return -EBADF;
      return map(iommufd, ioas, ask->flags, ask->length, &ask->iova, ask->start, 1);
    }
    case 0x92:
      return words[1] ? -EOPNOTSUPP : change_process(iommufd);
    default:
      return physical(iommufd, argument);
  }
}

int iommufd_ioctl(struct iommufd *iommufd, int number, void *argument) {
  uint32_t size, known, least;
  memcpy(&size, argument, sizeof size);
  const int unknown = sizes_of(number, &known, &least);
  if (unknown) return unknown;
  if (size < least) return -EINVAL;
  for (uint32_t at = known; at < size; at++)
    if (((uint8_t *)argument)[at]) return -E2BIG;
  // The kernel works on a copy, and an older program has room for less.
  uint64_t copied[6] = {0};
  memcpy(copied, argument, size < known ? size : known);
  const int result = answer(iommufd, number, copied);
  if (result == 0 || result == -EMSGSIZE) memcpy(argument, copied, size < known ? size : known);
  return result;
}

struct iommufd *iommufd_new(void) {
  struct iommufd *made = calloc(1, sizeof *made);
  made->users = 1;
  return made;
}

void iommufd_put(struct iommufd *iommufd) {
  if (--iommufd->users > 0) return;
  while (iommufd->objects) {
    struct object *each = iommufd->objects;
    while (each->users > 0) each = each->next;
    drop(iommufd, each);
  }
  free(iommufd);
}

int iommufd_has_group(const struct iommufd *iommufd, int group) {
  for (const struct object *each = iommufd->objects; each; each = each->next)
    if (each->type == DEVICE && each->group == group) return 1;
  return 0;
}

uint32_t iommufd_bind(struct iommufd *iommufd, int group) {
  struct object *device = add(iommufd, DEVICE);
  device->group = group;
  iommufd->users++;
  return device->id;
}

static void leave(struct iommufd *iommufd, struct object *device) {
  struct object *table = device->attached;
  if (!table) return;
  device->attached = NULL;
  table->users--;
  if (table->is_auto && table->users == 0) drop(iommufd, table);
}

void iommufd_unbind(struct iommufd *iommufd, uint32_t id) {
  struct object *device = find(iommufd, id);
  leave(iommufd, device);
  drop(iommufd, device);
  iommufd_put(iommufd);
}

int iommufd_attach(struct iommufd *iommufd, uint32_t id, uint32_t *pt) {
  struct object *device = find(iommufd, id), *to = find(iommufd, *pt);
  if (!to) return -ENOENT;
  if (to->type == DEVICE) return -EINVAL;
  // All devices of a group have one page table.
  for (const struct object *each = iommufd->objects; each && !device->attached; each = each->next)
    if (each->type == DEVICE && each->group == device->group && each->attached && ioas_of(each->attached) != ioas_of(to))
      return -EINVAL;
  if (to->type == IOAS) {
    struct object *table = iommufd->objects;
    while (table && !(table->type == HWPT && table->parent == to && table->is_auto)) table = table->next;
    if (!table) {
      const int failed = may_have_table(iommufd, to);
      if (failed) return failed;
      table = add_table(iommufd, to, 0);
      table->is_auto = 1;
    }
    to = table;
  }
  to->users++;
  leave(iommufd, device);
  device->attached = to;
  *pt = to->id;
  return 0;
}

void iommufd_detach(struct iommufd *iommufd, uint32_t id) { leave(iommufd, find(iommufd, id)); }

void iommufd_dump(FILE *out, const struct iommufd *iommufd) {
  static const char *const names[] = {"ioas", "hwpt", "device"};
  fputs("\"objects\":[", out);
  for (const struct object *each = iommufd->objects; each; each = each->next) {
    fprintf(out, "{\"id\":%u,\"type\":\"%s\"", each->id, names[each->type]);
    if (each->type == IOAS) {
      fputs(",\"mappings\":[", out);
      for (const struct area *area = each->areas; area; area = area->next)
        fprintf(out, "[\"%#llx\",%llu]%s", (unsigned long long)area->iova, (unsigned long long)area->size,
                area->next ? "," : "");
      fputs("]", out);
    }
    if (each->type == HWPT) fprintf(out, ",\"parent\":%u", each->parent->id);
    if (each->type == DEVICE && each->attached) fprintf(out, ",\"attached\":%u", each->attached->id);
    fprintf(out, "}%s", each->next ? "," : "");
  }
  fputs("]", out);
}
