// The I/O virtual addresses of a container.
#include <errno.h>
#include <linux/vfio.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static const struct vfio_iova_range RANGES[] = {{0, 0xfedfffff}, {0xfef00000, 0xffffffffffff}};

static struct mapping *find(const struct type1 *iommu, uint64_t iova, uint64_t size) {
  struct mapping *each = iommu->mappings;
  while (each && each->iova + (each->size - 1) < iova) each = each->next;
  return each && each->iova <= iova + (size - 1) ? each : NULL;
}

int type1_info(const struct type1 *iommu, uint32_t *raw) {
  struct {
    struct vfio_iommu_type1_info head;
    struct vfio_info_cap_header ranges;
    uint32_t count, reserved;
    struct vfio_iova_range range[2];
    struct vfio_info_cap_header available;
    uint32_t left, padding;
    struct vfio_info_cap_header migration;
    uint32_t flags, reserved_too;
    uint64_t pages, most_bits;
  } answer;
  memset(&answer, 0, sizeof answer);
  const uint32_t room = raw[0];
  if (room < 16) return -EINVAL;
  answer.head.argsz = sizeof answer;
  answer.head.flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS;
  answer.head.iova_pgsizes = machine.page_size;
  answer.ranges.id = VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE;
  answer.ranges.version = 1;
  answer.ranges.next = (uint32_t)((char *)&answer.available - (char *)&answer);
  answer.count = 2;
  memcpy(answer.range, RANGES, sizeof RANGES);
  answer.available.id = VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL;
  answer.available.version = 1;
  answer.left = machine.compat ? UINT32_MAX : machine.most_mappings - iommu->count;
  answer.available.next = (uint32_t)((char *)&answer.migration - (char *)&answer);
  answer.migration.id = VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION;
  answer.migration.version = 1;
  answer.pages = machine.page_size;
  answer.most_bits = 1 << 28;
  // iommufd logs nothing by this way.
  const size_t size = machine.compat ? offsetof(typeof(answer), migration) : sizeof answer;
  if (machine.compat) answer.available.next = 0;
  answer.head.argsz = (uint32_t)size;
  if (room >= size) answer.head.cap_offset = sizeof answer.head;
  memcpy(raw, &answer, room < size ? (room < sizeof answer.head ? room : sizeof answer.head) : size);
  return 0;
}

static int is_usable(uint64_t start, uint64_t end) {
  for (int i = 0; i < 2; i++)
    if (start >= RANGES[i].start && end <= RANGES[i].end) return 1;
  return 0;
}

int type1_map(struct type1 *iommu, const void *raw) {
  const struct vfio_iommu_type1_dma_map *map = raw;
  const uint32_t rights = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
  if (map->argsz < sizeof *map || map->flags & ~rights || !(map->flags & rights)) return -EINVAL;
  if (map->size == 0 || (map->size | map->iova | map->vaddr) & (machine.page_size - 1)) return -EINVAL;
  if (map->iova + map->size - 1 < map->iova || map->vaddr + map->size - 1 < map->vaddr) return -EINVAL;
  if (find(iommu, map->iova, map->size)) return -EEXIST;
  if (iommu->count >= machine.most_mappings && !machine.compat) return -ENOSPC;
  if (!is_usable(map->iova, map->iova + map->size - 1)) return -EINVAL;
  struct mapping **place = &iommu->mappings;
  while (*place && (*place)->iova < map->iova) place = &(*place)->next;
  struct mapping *made = malloc(sizeof *made);
  *made = (struct mapping){map->iova, map->size, *place};
  *place = made;
  iommu->count++;
  return 0;
}

static uint64_t drop(struct type1 *iommu, struct mapping *gone) {
  struct mapping **place = &iommu->mappings;
  while (*place != gone) place = &(*place)->next;
  *place = gone->next;
  iommu->count--;
  const uint64_t size = gone->size;
  free(gone);
  return size;
}

/** One after the other from the lowest on: what is below one that would be cut in two is gone. */
static int compat_unmap(struct type1 *iommu, struct vfio_iommu_type1_dma_unmap *unmap) {
  const uint32_t all = 1 << 1;
  if (unmap->argsz < 24 || unmap->flags & ~all) return -EINVAL;
  if (unmap->flags & all && (unmap->iova || unmap->size)) return -EINVAL;
  const uint64_t iova = unmap->iova, last = unmap->flags & all ? UINT64_MAX : iova + unmap->size - 1;
  if (!(unmap->flags & all) && unmap->size == 0) return -EINVAL;
  if (last < iova) return -EOVERFLOW;
  unmap->size = 0;
  int result = machine.linux_version >= 700 ? 0 : -ENOENT;
  for (struct mapping *each; (each = find(iommu, iova, last - iova + 1));) {
    if (each->iova < iova || each->iova + (each->size - 1) > last) return -ENOENT;
    unmap->size += drop(iommu, each);
    result = 0;
  }
  return result;
}

int type1_unmap(struct type1 *iommu, void *raw) {
  struct vfio_iommu_type1_dma_unmap *unmap = raw;
  if (machine.compat) return compat_unmap(iommu, unmap);
  const uint32_t all = 1 << 1, dirty = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
  if (unmap->argsz < 24 || unmap->flags & ~(all | dirty) || unmap->flags == (all | dirty)) return -EINVAL;
  const int is_all = (unmap->flags & all) != 0;
  if (is_all && (machine.linux_version < 512 || unmap->iova || unmap->size)) return -EINVAL;
  const uint64_t iova = unmap->iova, size = unmap->size;
  if (!is_all) {
    if (size == 0 || (iova | size) & (machine.page_size - 1) || iova + size - 1 < iova) return -EINVAL;
    const struct mapping *first = find(iommu, iova, 1), *last = find(iommu, iova + size - 1, 1);
    // Version 2 never cuts a mapping in two.
    if (first && first->iova != iova) return -EINVAL;
    if (last && last->iova + last->size != iova + size) return -EINVAL;
  }
  uint64_t bytes = 0;
  for (struct mapping **place = &iommu->mappings; *place;) {
    struct mapping *each = *place;
    if (!is_all && (each->iova < iova || each->iova > iova + size - 1)) {
      place = &each->next;
      continue;
    }
    bytes += each->size;
    *place = each->next;
    free(each);
    iommu->count--;
  }
  unmap->size = bytes;
  return 0;
}

void type1_clear(struct type1 *iommu) {
  while (iommu->mappings) {
    struct mapping *gone = iommu->mappings;
    iommu->mappings = gone->next;
    free(gone);
  }
  iommu->count = 0;
  iommu->version = 0;
}

void type1_dump(FILE *out, const struct type1 *iommu) {
  fprintf(out, "\"iommu\":%d,\"mappings\":[", iommu->version);
  for (const struct mapping *each = iommu->mappings; each; each = each->next)
    fprintf(out, "[\"%#llx\",%llu]%s", (unsigned long long)each->iova, (unsigned long long)each->size, each->next ? "," : "");
  fputs("]", out);
}
