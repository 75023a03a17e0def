// The kernel's interface, and the layout that lib/native/answer.ts reads, pinned against this header.
#pragma once

#include <linux/vfio.h>

#include <cstddef>

static_assert(VFIO_API_VERSION == 0);

static_assert(sizeof(vfio_info_cap_header) == 8);
static_assert(offsetof(vfio_info_cap_header, version) == 2);
static_assert(offsetof(vfio_info_cap_header, next) == 4);

static_assert(offsetof(vfio_device_info, flags) == 4);
static_assert(offsetof(vfio_device_info, num_regions) == 8);
static_assert(offsetof(vfio_device_info, num_irqs) == 12);
static_assert(offsetof(vfio_device_info, cap_offset) == 16);

static_assert(sizeof(vfio_region_info) == 32);
static_assert(offsetof(vfio_region_info, index) == 8);
static_assert(offsetof(vfio_region_info, cap_offset) == 12);
static_assert(offsetof(vfio_region_info, size) == 16);
static_assert(offsetof(vfio_region_info, offset) == 24);
static_assert(offsetof(vfio_region_info_cap_sparse_mmap, nr_areas) == 8);
static_assert(offsetof(vfio_region_info_cap_sparse_mmap, areas) == 16);
static_assert(sizeof(vfio_region_sparse_mmap_area) == 16);
static_assert(offsetof(vfio_region_info_cap_type, type) == 8);
static_assert(offsetof(vfio_region_info_cap_type, subtype) == 12);

static_assert(sizeof(vfio_irq_info) == 16);
static_assert(offsetof(vfio_irq_info, index) == 8);
static_assert(offsetof(vfio_irq_info, count) == 12);

static_assert(offsetof(vfio_iommu_type1_info, iova_pgsizes) == 8);
static_assert(offsetof(vfio_iommu_type1_info, cap_offset) == 16);
static_assert(offsetof(vfio_iommu_type1_info_cap_iova_range, nr_iovas) == 8);
static_assert(offsetof(vfio_iommu_type1_info_cap_iova_range, iova_ranges) == 16);
static_assert(offsetof(vfio_iommu_type1_info_cap_migration, pgsize_bitmap) == 16);
static_assert(offsetof(vfio_iommu_type1_info_cap_migration, max_dirty_bitmap_size) == 24);
static_assert(offsetof(vfio_iommu_type1_info_dma_avail, avail) == 8);

static_assert(sizeof(vfio_pci_hot_reset_info) == 12);
static_assert(offsetof(vfio_pci_hot_reset_info, count) == 8);
static_assert(sizeof(vfio_pci_dependent_device) == 8);
static_assert(offsetof(vfio_pci_dependent_device, segment) == 4);
static_assert(offsetof(vfio_pci_dependent_device, bus) == 6);
static_assert(offsetof(vfio_pci_dependent_device, devfn) == 7);
static_assert(sizeof(vfio_pci_hot_reset) == 12);

static_assert(sizeof(vfio_irq_set) == 20);
static_assert(offsetof(vfio_irq_set, data) == 20);

static_assert(sizeof(vfio_iommu_type1_dma_map) == 32);
static_assert(sizeof(vfio_bitmap) == 24);
// The bitmap follows at once.
static_assert(sizeof(vfio_iommu_type1_dma_unmap) == 24);
static_assert(sizeof(vfio_iommu_type1_dirty_bitmap) == 8);
static_assert(sizeof(vfio_iommu_type1_dirty_bitmap_get) == 40);
