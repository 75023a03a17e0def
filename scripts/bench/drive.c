// The peer of drive.ts: what a driver does with an open device, in C. Prints the nanoseconds of each, one a
// line. Arguments: group, address, then name, count, name, count, …
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "device.h"

#define BULK 4096
#define IOVA 0x10000000ull

static struct opened opened;
static volatile unsigned sink;

/** Of one round, in nanoseconds. */
typedef double measurement(int count);

static double register_read(int count) {
  volatile unsigned* registers = map_region(opened.device, VFIO_PCI_BAR0_REGION_INDEX);
  unsigned sum = 0;
  double start = now();
  for (int i = 0; i < count; i++) sum += registers[0];
  double time = now() - start;
  sink = sum;
  return time / count;
}

static double config_read(int count) {
  const struct vfio_region_info config = region_of(opened.device, VFIO_PCI_CONFIG_REGION_INDEX);
  unsigned value = 0;
  double start = now();
  for (int i = 0; i < count; i++) check(pread(opened.device, &value, sizeof value, config.offset), "pread");
  double time = now() - start;
  sink = value;
  return time / count;
}

static double bulk_read(int count) {
  volatile unsigned* registers = map_region(opened.device, VFIO_PCI_BAR0_REGION_INDEX);
  static unsigned buffer[BULK / sizeof(unsigned)];
  double start = now();
  for (int i = 0; i < count; i++) {
    for (unsigned word = 0; word < BULK / sizeof(unsigned); word++) buffer[word] = registers[word];
  }
  double time = now() - start;
  sink = buffer[count % (BULK / sizeof(unsigned))];
  return time / count;
}

static double map_and_unmap(int count, size_t size) {
  void* memory = allocate(size);
  double start = now();
  for (int i = 0; i < count; i++) {
    map_dma(opened.container, memory, size, IOVA);
    unmap_dma(opened.container, size, IOVA);
  }
  double time = now() - start;
  munmap(memory, size);
  return time / count;
}

static double map_4k(int count) {
  return map_and_unmap(count, 4 << 10);
}
static double map_2m(int count) {
  return map_and_unmap(count, 2 << 20);
}
static double map_256m(int count) {
  return map_and_unmap(count, 256 << 20);
}

static double interrupt(int count) {
  int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  int poll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event wanted = {.events = EPOLLIN};
  check(epoll_ctl(poll, EPOLL_CTL_ADD, event, &wanted), "epoll_ctl");
  struct {
    struct vfio_irq_set set;
    int eventfd;
  } enable = {
      .set = {.argsz = sizeof enable,
              .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
              .index = VFIO_PCI_MSI_IRQ_INDEX,
              .count = 1},
      .eventfd = event,
  };
  check(ioctl(opened.device, VFIO_DEVICE_SET_IRQS, &enable), "VFIO_DEVICE_SET_IRQS of an eventfd");

  double start = now();
  for (int i = 0; i < count; i++) {
    struct vfio_irq_set trigger = {.argsz = sizeof trigger,
                                   .flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
                                   .index = VFIO_PCI_MSI_IRQ_INDEX,
                                   .count = 1};
    check(ioctl(opened.device, VFIO_DEVICE_SET_IRQS, &trigger), "VFIO_DEVICE_SET_IRQS to trigger");
    struct epoll_event come;
    check(epoll_wait(poll, &come, 1, -1), "epoll_wait");
    unsigned long long times;
    check(read(event, &times, sizeof times), "read of the eventfd");
    if (times != 1) exit(1);
  }
  return (now() - start) / count;
}

static const struct {
  const char* name;
  measurement* measure;
} MEASUREMENTS[] = {
    {"read32", register_read}, {"config", config_read}, {"bulk", bulk_read},      {"map4k", map_4k},
    {"map2m", map_2m},         {"map256m", map_256m},   {"interrupt", interrupt},
};

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  opened = open_device(argv[1], argv[2]);
  for (int i = 3; i + 1 < argc; i += 2) {
    for (size_t m = 0; m < sizeof MEASUREMENTS / sizeof *MEASUREMENTS; m++) {
      if (strcmp(argv[i], MEASUREMENTS[m].name) == 0) {
        printf("%s %.1f\n", argv[i], MEASUREMENTS[m].measure(atoi(argv[i + 1])));
      }
    }
  }
  return 0;
}
