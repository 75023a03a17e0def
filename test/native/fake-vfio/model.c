// Who has which container, group and device open, and who keeps what alive.
#include "model.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_FDS 65536
#define NAME 32

enum kind { CONTAINER, GROUP, DEVICE };

struct object {
  enum kind kind;
  char name[NAME];
  /** Its descriptor, and what else keeps it: groups a container, devices a group. */
  int users;
  int is_open;
  /** Of a group its container, of a device its group. */
  struct object *parent;
  struct type1 iommu;
  struct irqs irqs;
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
  if (known && sscanf(text, "%d %u %u %u %u %u %u %u %lu", &machine.linux_version, &machine.count[0], &machine.count[1],
                      &machine.count[2], &machine.count[3], &machine.count[4], &machine.available, &machine.most_mappings,
                      &machine.page_size) != 9)
    abort();
  return known;
}

static struct object *add(enum kind kind, const char *name, struct object *parent) {
  struct object *made = calloc(1, sizeof *made);
  made->kind = kind;
  snprintf(made->name, sizeof made->name, "%s", name);
  made->users = made->is_open = 1;
  made->parent = parent;
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
  if (groups == 0) type1_clear(&container->iommu);
  put(container);
}

static void put(struct object *object) {
  if (--object->users > 0) return;
  if (object->kind == GROUP && object->parent) detach(object);
  if (object->kind == DEVICE) put(object->parent);
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

int model_may_open(const char *path) {
  // Also while a device of it is open: that holds the file.
  return strcmp(base(path), "vfio") != 0 && group_called(base(path)) ? -EBUSY : 0;
}

void model_opened(int fd, const char *path) {
  by_fd[fd] = add(strcmp(base(path), "vfio") == 0 ? CONTAINER : GROUP, base(path), NULL);
}

void model_closed(int fd) {
  struct object *object = by_fd[fd];
  if (!object) return;
  by_fd[fd] = NULL;
  object->is_open = 0;
  put(object);
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
      if (!is_in(container) || container->iommu.version) return -EINVAL;
      if (value != VFIO_TYPE1_IOMMU && value != VFIO_TYPE1v2_IOMMU) return -ENODEV;
      container->iommu.version = (int)value;
      return 0;
  }
  if (!container->iommu.version) return -EINVAL;
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
      if (group->users > 1) return -EBUSY;
      detach(group);
      return 0;
    case 6: {
      if (!group->parent || !group->parent->iommu.version) return -EINVAL;
      int fd = opened(argument);
      if (fd < 0) return -errno;
      by_fd[fd] = add(DEVICE, argument, group);
      group->users++;
      return fd;
    }
    default:
      return -ENOTTY;
  }
}

static int of_device(struct object *device, int number, void *argument) {
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
    default:
      return -ENOTTY;
  }
}

int model_ioctl(int fd, int number, void *argument, int (*opened)(const char *)) {
  struct object *object = by_fd[fd];
  if (!object) return -ENOTTY;
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
    if (kind == DEVICE) irqs_dump(out, &each->irqs);
    fputs("}", out);
    comma = ",";
  }
}

void model_dump(FILE *out) {
  static const char *const names[] = {"containers", "groups", "devices"};
  for (int kind = CONTAINER; kind <= DEVICE; kind++) {
    fprintf(out, "%c\"%s\":[", kind == CONTAINER ? '{' : ',', names[kind]);
    dump_all(out, (enum kind)kind);
    fputs("]", out);
  }
  fputs("}", out);
}
