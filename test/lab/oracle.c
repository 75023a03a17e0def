#define _GNU_SOURCE
// Asks the kernel about VFIO devices, by <linux/vfio.h> alone: nothing here knows what the library predicts.
// Reads lines `GROUP ADDRESS`, prints a JSON object for each: errno names, or what an ioctl answered. With an
// argument it leaves hot resets alone.
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MOST_AFFECTED 4096

static void say(const char* key, int failed) {
  printf(",\"%s\":\"%s\"", key, failed ? strerrorname_np(errno) : "ok");
}

static void ask_hot_reset(int device, int group) {
  struct vfio_pci_hot_reset_info* info;
  size_t size = sizeof *info + MOST_AFFECTED * sizeof info->devices[0];
  info = calloc(1, size);
  info->argsz = size;
  int failed = ioctl(device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info);
  say("hotInfo", failed);
  if (!failed) {
    printf(",\"affected\":[");
    for (unsigned i = 0; i < info->count; i++) {
      struct vfio_pci_dependent_device* hit = &info->devices[i];
      printf("%s{\"address\":\"%04x:%02x:%02x.%x\",\"group\":%u}", i ? "," : "", hit->segment, hit->bus,
             hit->devfn >> 3, hit->devfn & 7, hit->group_id);
    }
    printf("]");
  }
  free(info);
  struct vfio_pci_hot_reset* reset = calloc(1, sizeof *reset + sizeof reset->group_fds[0]);
  reset->argsz = sizeof *reset + sizeof reset->group_fds[0];
  reset->count = 1;
  reset->group_fds[0] = group;
  say("hotReset", ioctl(device, VFIO_DEVICE_PCI_HOT_RESET, reset));
  free(reset);
}

static void ask_device(int group, const char* address, int hot) {
  int device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
  say("device", device < 0);
  if (device < 0) return;
  struct vfio_device_info info = {.argsz = sizeof info};
  say("info", ioctl(device, VFIO_DEVICE_GET_INFO, &info));
  printf(",\"functionReset\":%s", info.flags & VFIO_DEVICE_FLAGS_RESET ? "true" : "false");
  if (hot) ask_hot_reset(device, group);
  close(device);
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
