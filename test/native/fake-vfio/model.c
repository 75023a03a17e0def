// Who has which container, group, device and iommufd open, and who keeps what alive.
#include "model.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_FDS 65536
#define NAME 32
#define MOST_CDEVS 8
/** A virtual function, which takes this token. */
#define VF 7
static const uint8_t TOKEN[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

enum kind { CONTAINER, GROUP, DEVICE, IOMMUFD };
#define CDEVS "/dev/vfio/devices/vfio"

struct object {
  enum kind kind;
  char name[NAME];
  /** Its descriptor, and what else keeps it: groups a container, devices a group. */
  int users;
  int is_open;
  /** Of a group its container, of a device its group. */
  struct object *parent;
  /** Of a device of a group, where iommufd provides the container: that one. */
  struct object *container;
  struct type1 iommu;
  struct irqs irqs;
  /** An iommufd, or of a device by its own node the one that it is bound to, with its number there. */
  struct iommufd *iommufd;
  uint32_t devid;
  /** Of such a device N of vfioN; else -1. */
  int cdev;
  struct object *next;
};

struct machine machine;
static struct object *objects;
static struct object *by_fd[MOST_FDS];

int model_is_on(void) {
  static int known = -1;
  if (known >= 0) return known;
  const char *text = getenv("FAKE_VFIO_MODEL");
  known = text != NULL;
  if (known && sscanf(text, "%d %u %u %u %u %u %u %u %lu %lu %d", &machine.linux_version, &machine.count[0], &machine.count[1],
                      &machine.count[2], &machine.count[3], &machine.count[4], &machine.available, &machine.most_mappings,
                      &machine.page_size, &machine.most_locked, &machine.compat) != 11)
    abort();
  return known;
}

static struct object *add(enum kind kind, const char *name, struct object *parent) {
  struct object *made = calloc(1, sizeof *made);
  made->kind = kind;
  snprintf(made->name, sizeof made->name, "%s", name);
  made->users = made->is_open = 1;
  made->parent = parent;
  made->cdev = -1;
  made->next = objects;
  irqs_off(&made->irqs);
  objects = made;
  return made;
}

static void put(struct object *object);

static void detach(struct object *group) {
  struct object *container = group->parent;
  group->parent = NULL;
  // Without groups it is as it was in the beginning.
  int groups = 0;
  for (struct object *each = objects; each; each = each->next) groups += each->kind == GROUP && each->parent == container;
  if (groups == 0 && !machine.compat) type1_clear(&container->iommu);
  put(container);
}

static void put(struct object *object) {
  if (--object->users > 0) return;
  if (object->kind == GROUP && object->parent) detach(object);
  if (object->kind == DEVICE && object->parent) put(object->parent);
  if (object->container) put(object->container);
  if (object->kind == CONTAINER) type1_clear(&object->iommu);
  if (object->devid) iommufd_unbind(object->iommufd, object->devid);
  if (object->kind == IOMMUFD) iommufd_put(object->iommufd);
  struct object **place = &objects;
  while (*place != object) place = &(*place)->next;
  *place = object->next;
  free(object);
}

static const char *base(const char *path) { return strrchr(path, '/') + 1; }

static struct object *group_called(const char *name) {
  for (struct object *each = objects; each; each = each->next)
    if (each->kind == GROUP && strcmp(each->name, name) == 0) return each;
  return NULL;
}

/** Two functions are one group. */
static int group_of(int cdev) { return cdev / 2 + 1; }

static int cdev_of(const char *path) { return strncmp(path, CDEVS, strlen(CDEVS)) == 0 ? atoi(path + strlen(CDEVS)) : -1; }

int model_may_open(const char *path) {
  if (strcmp(path, "/dev/iommu") == 0) return machine.linux_version < 602 ? -ENOENT : 0;
  const int cdev = cdev_of(path);
  // More than one may be open, but only one bound.
  if (cdev >= 0) return machine.linux_version < 606 || cdev >= MOST_CDEVS ? -ENOENT : 0;
  if (strcmp(base(path), "vfio") == 0) return 0;
  // Also while a device of it is open: that holds the file.
  if (group_called(base(path))) return -EBUSY;
  for (const struct object *each = objects; each; each = each->next)
    if (each->devid && group_of(each->cdev) == atoi(base(path))) return -EBUSY;
  return 0;
}

void model_opened(int fd, const char *path) {
  const int cdev = cdev_of(path);
  if (strcmp(path, "/dev/iommu") == 0) {
    by_fd[fd] = add(IOMMUFD, base(path), NULL);
    by_fd[fd]->iommufd = iommufd_new();
  } else {
    by_fd[fd] = add(cdev >= 0 ? DEVICE : strcmp(base(path), "vfio") == 0 ? CONTAINER : GROUP, base(path), NULL);
    by_fd[fd]->cdev = cdev;
  }
}

void model_closed(int fd) {
  struct object *object = by_fd[fd];
  if (!object) return;
  by_fd[fd] = NULL;
  object->is_open = 0;
  for (int other = 0; object->users > 1 && other < MOST_FDS; other++) object->is_open |= by_fd[other] == object;
  put(object);
}

void model_duplicated(int from, int to) {
  by_fd[to] = by_fd[from];
  if (by_fd[to]) by_fd[to]->users++;
}

static int is_in(const struct object *container) {
  for (const struct object *each = objects; each; each = each->next)
    if (each->kind == GROUP && each->parent == container) return 1;
  return 0;
}

static int of_container(struct object *container, int number, void *argument) {
  const unsigned long value = (unsigned long)argument;
  switch (number) {
    case 0:
      return 0;
    case 1:
      return value == VFIO_TYPE1_IOMMU || value == VFIO_TYPE1v2_IOMMU || (value == 9 && machine.linux_version >= 512);
    case 2:
      if (machine.compat && value != VFIO_TYPE1_IOMMU && value != VFIO_TYPE1v2_IOMMU) return -EINVAL;
      if (machine.compat) return container->iommu.version ? 0 : -ENODEV;
      if (!is_in(container) || container->iommu.version) return -EINVAL;
      if (value != VFIO_TYPE1_IOMMU && value != VFIO_TYPE1v2_IOMMU) return -ENODEV;
      container->iommu.version = (int)value;
      return 0;
  }
  if (!container->iommu.version) return machine.compat && number <= 14 ? -ENODEV : machine.compat ? -ENOTTY : -EINVAL;
  switch (number) {
    case 12:
      return type1_info(&container->iommu, argument);
    case 13:
      return type1_map(&container->iommu, argument);
    case 14:
      return type1_unmap(&container->iommu, argument);
    default:
      return -ENOTTY;
  }
}

static int set_container(struct object *group, int fd) {
  if (fcntl(fd, F_GETFD) < 0) return -EBADF;
  if (group->parent) return -EINVAL;
  if (fd >= MOST_FDS || !by_fd[fd] || by_fd[fd]->kind != CONTAINER) return -EBADFD;
  group->parent = by_fd[fd];
  group->parent->users++;
  if (machine.compat) group->parent->iommu.version = VFIO_TYPE1v2_IOMMU;
  return 0;
}

static int of_group(struct object *group, int number, void *argument, int (*opened)(const char *)) {
  switch (number) {
    case 3:
      ((struct vfio_group_status *)argument)->flags =
          VFIO_GROUP_FLAGS_VIABLE | (group->parent ? VFIO_GROUP_FLAGS_CONTAINER_SET : 0);
      return 0;
    case 4:
      return set_container(group, *(int *)argument);
    case 5:
      if (!group->parent) return -EINVAL;
      if (group->users > 1 && !machine.compat) return -EBUSY;
      detach(group);
      return 0;
    case 6: {
      if (!group->parent || !group->parent->iommu.version) return -EINVAL;
      int fd = opened(argument);
      if (fd < 0) return -errno;
      by_fd[fd] = add(DEVICE, argument, group);
      group->users++;
      if (machine.compat) (by_fd[fd]->container = group->parent)->users++;
      return fd;
    }
    default:
      return -ENOTTY;
  }
}

static int bind(struct object *device, struct vfio_bind_iommufd *ask) {
  const int takes_token = machine.linux_version >= 618;
  if (ask->argsz < 16 || ask->flags & ~(takes_token ? 1u : 0) || ask->iommufd < 0) return -EINVAL;
  if (device->cdev < 0) return -EINVAL;
  char group[NAME];
  snprintf(group, sizeof group, "%d", group_of(device->cdev));
  if (group_called(group)) return -EBUSY;
  if (device->devid) return -EINVAL;
  if (fcntl(ask->iommufd, F_GETFD) < 0) return -EBADF;
  struct object *to = ask->iommufd < MOST_FDS ? by_fd[ask->iommufd] : NULL;
  if (!to || to->kind != IOMMUFD) return -EBADFD;
  for (const struct object *each = objects; each; each = each->next) {
    if (!each->devid) continue;
    if (each->cdev == device->cdev) return -EINVAL;
    // The group is another's.
    if (group_of(each->cdev) == group_of(device->cdev) && each->iommufd != to->iommufd) return -EPERM;
  }
  const uint8_t *token = ask->flags ? (void *)(uintptr_t)ask->token_uuid_ptr : NULL;
  if (device->cdev == VF && takes_token && (!token || memcmp(token, TOKEN, sizeof TOKEN) != 0)) return -EACCES;
  if (device->cdev != VF && token) return -EINVAL;
  device->iommufd = to->iommufd;
  ask->out_devid = device->devid = iommufd_bind(to->iommufd, group_of(device->cdev));
  return 0;
}

/** Of another function, as far as this iommufd knows it: its number, or that it is not its own. */
static uint32_t devid_of(const struct object *device, int cdev) {
  for (const struct object *each = objects; each; each = each->next)
    if (each->devid && each->cdev == cdev && each->iommufd == device->iommufd) return each->devid;
  return iommufd_has_group(device->iommufd, group_of(cdev)) ? 0 : UINT32_MAX;
}

/** A slot has functions of two groups. */
static int other_in_slot(int cdev) { return cdev ^ 2; }

/** What is asked of a device by its own node otherwise than of one of a group. */
static int of_cdev(struct object *device, int number, void *argument) {
  uint32_t *words = argument;
  if (number == 18) return bind(device, argument);
  if (!device->devid) return -EINVAL;
  switch (number) {
    case 12: {
      const int members[] = {device->cdev, other_in_slot(device->cdev)};
      if (words[0] < 12) return -EINVAL;
      words[1] = words[2] = 0;
      for (int i = 0; i < 2; i++) {
        const uint32_t devid = devid_of(device, members[i]);
        if (12 + 8 * (uint32_t)(i + 1) > words[0]) words[2] = 2;
        if (words[2]) return -ENOSPC;
        words[3 + 2 * i] = devid;
        words[4 + 2 * i] = (uint32_t)(1 << 16 | members[i] << 24);
      }
      // Numbers of devices; and whether all are its own.
      words[1] = 1 | (words[5] == UINT32_MAX ? 0 : 2);
      words[2] = 2;
      return 0;
    }
    case 13:
      if (words[0] < 12 || words[1] || words[2]) return -EINVAL;
      return devid_of(device, other_in_slot(device->cdev)) == UINT32_MAX ? -EINVAL : 0;
    case 19:
      if (words[0] < 12 || words[1] & ~(machine.linux_version >= 615 ? 1u : 0)) return -EINVAL;
      return words[1] ? -EOPNOTSUPP : iommufd_attach(device->iommufd, device->devid, &words[2]);
    case 20:
      if (words[0] < 8 || words[1] & ~(machine.linux_version >= 615 ? 1u : 0)) return -EINVAL;
      if (words[1]) return -EOPNOTSUPP;
      iommufd_detach(device->iommufd, device->devid);
      return 0;
    default:
      return 1;
  }
}

static int of_device(struct object *device, int number, void *argument) {
  if (device->cdev >= 0) {
    const int result = of_cdev(device, number, argument);
    if (result <= 0) return result;
  }
  switch (number) {
    case 7: {
      struct vfio_device_info *info = argument;
      info->flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
      info->num_regions = 9;
      info->num_irqs = KINDS;
      return 0;
    }
    case 9:
      return irqs_info(argument);
    case 10:
      return irqs_set(&device->irqs, argument);
    case 11:
      return 0;
    case 18:
    case 19:
    case 20:
      return -EINVAL;
    default:
      return -ENOTTY;
  }
}

int model_ioctl(int fd, int number, void *argument, int (*opened)(const char *)) {
  struct object *object = by_fd[fd];
  if (!object) return -ENOTTY;
  if (object->kind == IOMMUFD) return number < 0x80 ? -ENOTTY : iommufd_ioctl(object->iommufd, number, argument);
  if (object->kind == CONTAINER) return of_container(object, number, argument);
  if (object->kind == GROUP) return of_group(object, number, argument, opened);
  return of_device(object, number, argument);
}

static void dump_all(FILE *out, enum kind kind) {
  const char *comma = "";
  for (const struct object *each = objects; each; each = each->next) {
    if (each->kind != kind) continue;
    fprintf(out, "%s{\"name\":\"%s\",\"open\":%d,\"users\":%d,", comma, each->name, each->is_open, each->users);
    if (kind == CONTAINER) type1_dump(out, &each->iommu);
    if (kind == GROUP) fprintf(out, "\"inContainer\":%d", each->parent != NULL);
    if (kind == DEVICE) fprintf(out, "\"devid\":%u,", each->devid);
    if (kind == DEVICE) irqs_dump(out, &each->irqs);
    if (kind == IOMMUFD) iommufd_dump(out, each->iommufd);
    fputs("}", out);
    comma = ",";
  }
}

void model_dump(FILE *out) {
  static const char *const names[] = {"containers", "groups", "devices", "iommufds"};
  for (int kind = CONTAINER; kind <= IOMMUFD; kind++) {
    fprintf(out, "%c\"%s\":[", kind == CONTAINER ? '{' : ',', names[kind]);
    dump_all(out, (enum kind)kind);
    fputs("]", out);
  }
  fputs("}", out);
}
