#define _GNU_SOURCE
// Asks the kernel about VFIO devices, by its own interfaces alone: nothing here knows what the library predicts.
// Reads lines `GROUP ADDRESS`, prints a JSON object for each: errno names, or what an ioctl answered; once by the group
// and, where the device has a character device of its own, once by that. With an argument it leaves hot resets alone.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MOST_AFFECTED 4096

// Since Linux 6.6, and not in every header: `struct vfio_device_bind_iommufd` and what hot reset tells by devid.
#define BIND_IOMMUFD _IO(VFIO_TYPE, VFIO_BASE + 18)
#define HOT_RESET_DEV_ID_OWNED (1 << 1)

struct bind_iommufd {
  __u32 argsz;
  __u32 flags;
  __s32 iommufd;
  __u32 out_devid;
};
_Static_assert(sizeof(struct bind_iommufd) == 16, "as Linux 6.6 has it");
_Static_assert(offsetof(struct bind_iommufd, out_devid) == 12, "as Linux 6.6 has it");
#ifdef VFIO_DEVICE_BIND_IOMMUFD
_Static_assert(BIND_IOMMUFD == VFIO_DEVICE_BIND_IOMMUFD, "as the header has it");
#endif

static void say(const char* key, int failed) {
  printf(",\"%s\":\"%s\"", key, failed ? strerrorname_np(errno) : "ok");
}

// By group the kernel names the group of each function, by cdev what the iommufd has of it (in the same place).
static void say_affected(const struct vfio_pci_hot_reset_info* info, int by_cdev) {
  printf(",\"affected\":[");
  for (unsigned i = 0; i < info->count; i++) {
    const struct vfio_pci_dependent_device* hit = &info->devices[i];
    printf("%s{\"address\":\"%04x:%02x:%02x.%x\",", i ? "," : "", hit->segment, hit->bus, hit->devfn >> 3,
           hit->devfn & 7);
    if (by_cdev) {
      printf("\"devid\":%d}", (int)hit->group_id);
    } else {
      printf("\"group\":%u}", hit->group_id);
    }
  }
  printf("]");
  if (by_cdev) printf(",\"owned\":%s", info->flags & HOT_RESET_DEV_ID_OWNED ? "true" : "false");
}

// By cdev it takes no descriptors of groups: `group` is negative then.
static void ask_hot_reset(int device, int group) {
  struct vfio_pci_hot_reset_info* info;
  size_t size = sizeof *info + MOST_AFFECTED * sizeof info->devices[0];
  info = calloc(1, size);
  info->argsz = size;
  int failed = ioctl(device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info);
  say("hotInfo", failed);
  if (!failed) say_affected(info, group < 0);
  free(info);
  struct vfio_pci_hot_reset* reset = calloc(1, sizeof *reset + sizeof reset->group_fds[0]);
  reset->argsz = sizeof *reset;
  if (group >= 0) {
    reset->argsz += sizeof reset->group_fds[0];
    reset->count = 1;
    reset->group_fds[0] = group;
  }
  say("hotReset", ioctl(device, VFIO_DEVICE_PCI_HOT_RESET, reset));
  free(reset);
}

static void ask_open_device(int device, int group, int hot) {
  struct vfio_device_info info = {.argsz = sizeof info};
  say("info", ioctl(device, VFIO_DEVICE_GET_INFO, &info));
  printf(",\"functionReset\":%s", info.flags & VFIO_DEVICE_FLAGS_RESET ? "true" : "false");
  if (hot) ask_hot_reset(device, group);
}

static void ask_device(int group, const char* address, int hot) {
  int device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
  say("device", device < 0);
  if (device < 0) return;
  ask_open_device(device, group, hot);
  close(device);
}

// The name of the device's own node below /dev/vfio/devices; 0 where it has none.
static int find_cdev(const char* address, char* path, size_t size) {
  char directory[128];
  snprintf(directory, sizeof directory, "/sys/bus/pci/devices/%s/vfio-dev", address);
  DIR* list = opendir(directory);
  if (list == NULL) return 0;
  int found = 0;
  for (struct dirent* entry; !found && (entry = readdir(list)) != NULL;) {
    if (entry->d_name[0] == '.') continue;
    snprintf(path, size, "/dev/vfio/devices/%.64s", entry->d_name);
    found = access(path, F_OK) == 0;
  }
  closedir(list);
  return found;
}

static void ask_by_cdev(const char* address, int hot) {
  char path[128];
  if (!find_cdev(address, path, sizeof path)) return;
  int device = open(path, O_RDWR);
  printf(",\"cdev\":{\"open\":\"%s\"", device < 0 ? strerrorname_np(errno) : "ok");
  if (device >= 0) {
    int iommufd = open("/dev/iommu", O_RDWR);
    say("iommufd", iommufd < 0);
    struct bind_iommufd bind = {.argsz = sizeof bind, .iommufd = iommufd};
    int failed = ioctl(device, BIND_IOMMUFD, &bind);
    say("bind", failed);
    if (!failed) {
      printf(",\"devid\":%u", bind.out_devid);
      ask_open_device(device, -1, hot);
    }
    close(device);
    close(iommufd);
  }
  printf("}");
}

static void ask(int number, const char* address, int hot) {
  char path[64];
  snprintf(path, sizeof path, "/dev/vfio/%d", number);
  printf("{\"group\":%d,\"address\":\"%s\"", number, address);
  int group = open(path, O_RDWR);
  say("open", group < 0);
  if (group >= 0) {
    struct vfio_group_status status = {.argsz = sizeof status};
    say("status", ioctl(group, VFIO_GROUP_GET_STATUS, &status));
    printf(",\"viable\":%s", status.flags & VFIO_GROUP_FLAGS_VIABLE ? "true" : "false");
    int container = open("/dev/vfio/vfio", O_RDWR);
    say("container", container < 0);
    int failed = ioctl(group, VFIO_GROUP_SET_CONTAINER, &container);
    say("setContainer", failed);
    if (!failed) {
      say("setIommu", ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
      ask_device(group, address, hot);
    }
    close(group);
    close(container);
  }
  // A device opens by group or by cdev, and not by both.
  ask_by_cdev(address, hot);
  printf("}\n");
  fflush(stdout);
}

int main(int count, char* arguments[]) {
  (void)arguments;
  int group;
  char address[64];
  while (scanf("%d %63s", &group, address) == 2) ask(group, address, count == 1);
  return 0;
}
