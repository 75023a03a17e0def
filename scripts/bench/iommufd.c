// The peer of iommufd.ts: the same by a device's own node and an iommufd, in C. Prints nanoseconds for each, one a line.
// Arguments: group, address, the device's node, then name, count, name, count, …
#include <string.h>

#include "device.h"

#define IOVA 0x10000000ull

// Debian 12's headers are older than these requests (include/uapi/linux/vfio.h and iommufd.h of Linux 6.6).
struct bind_iommufd {
  unsigned argsz, flags;
  int iommufd;
  unsigned devid;
};
struct attach_pt {
  unsigned argsz, flags, pt;
};
struct ioas_alloc {
  unsigned size, flags, id;
};
struct ioas_map {
  unsigned size, flags, ioas, reserved;
  unsigned long long address, length, iova;
};
struct ioas_unmap {
  unsigned size, ioas;
  unsigned long long iova, length;
};
#define BIND_IOMMUFD _IO(';', 118)
#define ATTACH_PT _IO(';', 119)
#define IOAS_ALLOC _IO(';', 0x81)
#define IOAS_MAP _IO(';', 0x85)
#define IOAS_UNMAP _IO(';', 0x86)
#define FIXED_READ_WRITE 7

struct by_node {
  int iommufd;
  int device;
  unsigned ioas;
};

static const char* node;
static const char* group;
static const char* address;
static volatile unsigned sink;

static struct by_node open_by_node(void) {
  struct by_node opened;
  opened.iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
  check(opened.iommufd, "iommufd");
  struct ioas_alloc ioas = {.size = sizeof ioas};
  check(ioctl(opened.iommufd, IOAS_ALLOC, &ioas), "IOMMU_IOAS_ALLOC");
  opened.ioas = ioas.id;
  opened.device = open(node, O_RDWR | O_CLOEXEC);
  check(opened.device, node);
  struct bind_iommufd bind = {.argsz = sizeof bind, .iommufd = opened.iommufd};
  check(ioctl(opened.device, BIND_IOMMUFD, &bind), "VFIO_DEVICE_BIND_IOMMUFD");
  struct attach_pt attach = {.argsz = sizeof attach, .pt = ioas.id};
  check(ioctl(opened.device, ATTACH_PT, &attach), "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
  return opened;
}

static void first_read(int device) {
  const struct vfio_region_info config = region_of(device, VFIO_PCI_CONFIG_REGION_INDEX);
  unsigned value = 0;
  check(pread(device, &value, sizeof value, config.offset), "pread");
  sink = value;
}

// To the first register; closing is not in it.
static double open_iommufd(int count) {
  double time = 0;
  for (int i = 0; i < count; i++) {
    double start = now();
    struct by_node opened = open_by_node();
    first_read(opened.device);
    time += now() - start;
    close(opened.device);
    close(opened.iommufd);
  }
  return time / count;
}

static double open_group(int count) {
  double time = 0;
  for (int i = 0; i < count; i++) {
    double start = now();
    struct opened opened = open_device(group, address);
    first_read(opened.device);
    time += now() - start;
    close(opened.device);
    close(opened.group);
    close(opened.container);
  }
  return time / count;
}

static double map_and_unmap(int count, size_t size) {
  struct by_node opened = open_by_node();
  void* memory = allocate(size);
  double start = now();
  for (int i = 0; i < count; i++) {
    struct ioas_map map = {.size = sizeof map,
                           .flags = FIXED_READ_WRITE,
                           .ioas = opened.ioas,
                           .address = (unsigned long long)memory,
                           .length = size,
                           .iova = IOVA};
    check(ioctl(opened.iommufd, IOAS_MAP, &map), "IOMMU_IOAS_MAP");
    struct ioas_unmap unmap = {.size = sizeof unmap, .ioas = opened.ioas, .iova = IOVA, .length = size};
    check(ioctl(opened.iommufd, IOAS_UNMAP, &unmap), "IOMMU_IOAS_UNMAP");
  }
  double time = now() - start;
  munmap(memory, size);
  close(opened.device);
  close(opened.iommufd);
  return time / count;
}

static double ioas_4k(int count) {
  return map_and_unmap(count, 4 << 10);
}
static double ioas_2m(int count) {
  return map_and_unmap(count, 2 << 20);
}
static double ioas_256m(int count) {
  return map_and_unmap(count, 256 << 20);
}

static const struct {
  const char* name;
  double (*measure)(int count);
} MEASUREMENTS[] = {
    {"ioas4k", ioas_4k},
    {"ioas2m", ioas_2m},
    {"ioas256m", ioas_256m},
    {"openIommufd", open_iommufd},
    {"openGroup", open_group},
};

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  group = argv[1];
  address = argv[2];
  node = argv[3];
  for (int i = 4; i + 1 < argc; i += 2) {
    for (size_t m = 0; m < sizeof MEASUREMENTS / sizeof *MEASUREMENTS; m++) {
      if (strcmp(argv[i], MEASUREMENTS[m].name) == 0) {
        printf("%s %.1f\n", argv[i], MEASUREMENTS[m].measure(atoi(argv[i + 1])));
      }
    }
  }
  return 0;
}
