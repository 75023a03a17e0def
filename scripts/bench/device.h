// What the C peers have in common: a clock, an exit on failure, and a device opened by its group.
#ifndef VFIO_BENCH_DEVICE_H
#define VFIO_BENCH_DEVICE_H

#include <fcntl.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct opened {
  int container;
  int group;
  int device;
};

/** In nanoseconds. */
static inline double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

static inline void check(long result, const char* what) {
  if (result < 0) {
    perror(what);
    exit(1);
  }
}

static inline struct opened open_device(const char* group, const char* address) {
  struct opened opened;
  char path[64];
  snprintf(path, sizeof path, "/dev/vfio/%s", group);
  opened.container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
  check(opened.container, "container");
  opened.group = open(path, O_RDWR | O_CLOEXEC);
  check(opened.group, path);
  check(ioctl(opened.group, VFIO_GROUP_SET_CONTAINER, &opened.container), "VFIO_GROUP_SET_CONTAINER");
  check(ioctl(opened.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "VFIO_SET_IOMMU");
  opened.device = ioctl(opened.group, VFIO_GROUP_GET_DEVICE_FD, address);
  check(opened.device, "VFIO_GROUP_GET_DEVICE_FD");
  return opened;
}

static inline struct vfio_region_info region_of(int device, unsigned index) {
  struct vfio_region_info region = {.argsz = sizeof region, .index = index};
  check(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region), "VFIO_DEVICE_GET_REGION_INFO");
  return region;
}

static inline volatile void* map_region(int device, unsigned index) {
  const struct vfio_region_info region = region_of(device, index);
  void* mapping = mmap(NULL, region.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, region.offset);
  check(mapping == MAP_FAILED ? -1 : 0, "mmap of a region");
  return mapping;
}

/** Memory of a file, as the library's buffers have it, every page of it there. */
static inline void* allocate(size_t size) {
  int file = memfd_create("bench", MFD_CLOEXEC);
  check(file, "memfd_create");
  check(ftruncate(file, size), "ftruncate");
  void* memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
  check(memory == MAP_FAILED ? -1 : 0, "mmap of a buffer");
  close(file);
  return memory;
}

static inline void map_dma(int container, const void* memory, size_t size, unsigned long long iova) {
  struct vfio_iommu_type1_dma_map map = {
      .argsz = sizeof map,
      .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
      .vaddr = (unsigned long long)memory,
      .iova = iova,
      .size = size,
  };
  check(ioctl(container, VFIO_IOMMU_MAP_DMA, &map), "VFIO_IOMMU_MAP_DMA");
}

static inline void unmap_dma(int container, size_t size, unsigned long long iova) {
  struct vfio_iommu_type1_dma_unmap unmap = {.argsz = sizeof unmap, .iova = iova, .size = size};
  check(ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap), "VFIO_IOMMU_UNMAP_DMA");
}

#endif
