// The peer of ioctls.ts: the same questions in a C loop. Prints nanoseconds for each, one a line.
#include "device.h"

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  int count = atoi(argv[3]);
  const struct opened opened = open_device(argv[1], argv[2]);

  double start = now();
  for (int i = 0; i < count; i++) {
    struct vfio_group_status status = {.argsz = sizeof status};
    check(ioctl(opened.group, VFIO_GROUP_GET_STATUS, &status), "VFIO_GROUP_GET_STATUS");
  }
  printf("status %.1f\n", (now() - start) / count);

  start = now();
  for (int i = 0; i < count; i++) {
    struct vfio_region_info region = {.argsz = sizeof region, .index = VFIO_PCI_BAR0_REGION_INDEX};
    check(ioctl(opened.device, VFIO_DEVICE_GET_REGION_INFO, &region), "VFIO_DEVICE_GET_REGION_INFO");
  }
  printf("regionInfo %.1f\n", (now() - start) / count);

  start = now();
  for (int i = 0; i < count; i++) {
    struct vfio_irq_info irq = {.argsz = sizeof irq, .index = VFIO_PCI_MSIX_IRQ_INDEX};
    check(ioctl(opened.device, VFIO_DEVICE_GET_IRQ_INFO, &irq), "VFIO_DEVICE_GET_IRQ_INFO");
  }
  printf("irqInfo %.1f\n", (now() - start) / count);
  return 0;
}
