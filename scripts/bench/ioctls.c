// The peer of ioctls.ts: the same questions in a C loop. Prints nanoseconds for each, one a line.
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

static void check(int result, const char* what) {
  if (result < 0) {
    perror(what);
    exit(1);
  }
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  char path[64];
  snprintf(path, sizeof path, "/dev/vfio/%s", argv[1]);
  int count = atoi(argv[3]);
  int container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
  check(container, "container");
  int group = open(path, O_RDWR | O_CLOEXEC);
  check(group, path);
  check(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container), "VFIO_GROUP_SET_CONTAINER");
  check(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "VFIO_SET_IOMMU");
  int device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, argv[2]);
  check(device, "VFIO_GROUP_GET_DEVICE_FD");

  double start = now();
  for (int i = 0; i < count; i++) {
    struct vfio_group_status status = {.argsz = sizeof status};
    check(ioctl(group, VFIO_GROUP_GET_STATUS, &status), "VFIO_GROUP_GET_STATUS");
  }
  printf("status %.1f\n", (now() - start) / count);

  start = now();
  for (int i = 0; i < count; i++) {
    struct vfio_region_info region = {.argsz = sizeof region, .index = VFIO_PCI_BAR0_REGION_INDEX};
    check(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region), "VFIO_DEVICE_GET_REGION_INFO");
  }
  printf("regionInfo %.1f\n", (now() - start) / count);

  start = now();
  for (int i = 0; i < count; i++) {
    struct vfio_irq_info irq = {.argsz = sizeof irq, .index = VFIO_PCI_MSIX_IRQ_INDEX};
    check(ioctl(device, VFIO_DEVICE_GET_IRQ_INFO, &irq), "VFIO_DEVICE_GET_IRQ_INFO");
  }
  printf("irqInfo %.1f\n", (now() - start) / count);
  return 0;
}
