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

#if __has_include(<linux/vfio_zdev.h>)
#include <linux/vfio_zdev.h>
static_assert(offsetof(vfio_device_info_cap_zpci_base, start_dma) == 8);
static_assert(offsetof(vfio_device_info_cap_zpci_base, end_dma) == 16);
static_assert(offsetof(vfio_device_info_cap_zpci_base, pchid) == 24);
static_assert(offsetof(vfio_device_info_cap_zpci_base, vfn) == 26);
static_assert(offsetof(vfio_device_info_cap_zpci_base, fmb_length) == 28);
static_assert(offsetof(vfio_device_info_cap_zpci_base, pft) == 30);
static_assert(offsetof(vfio_device_info_cap_zpci_base, gid) == 31);
static_assert(offsetof(vfio_device_info_cap_zpci_group, dasm) == 8);
static_assert(offsetof(vfio_device_info_cap_zpci_group, msi_addr) == 16);
static_assert(offsetof(vfio_device_info_cap_zpci_group, flags) == 24);
static_assert(offsetof(vfio_device_info_cap_zpci_group, mui) == 32);
static_assert(offsetof(vfio_device_info_cap_zpci_group, noi) == 34);
static_assert(offsetof(vfio_device_info_cap_zpci_group, maxstbl) == 36);
static_assert(offsetof(vfio_device_info_cap_zpci_group, version) == 38);
static_assert(offsetof(vfio_device_info_cap_zpci_util, util_str) == 12);
static_assert(offsetof(vfio_device_info_cap_zpci_pfip, pfip) == 12);
#ifdef VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP
static_assert(offsetof(vfio_device_info_cap_zpci_base, fh) == 32);
static_assert(offsetof(vfio_device_info_cap_zpci_group, imaxstbl) == 40);
#endif
#ifdef VFIO_DEVICE_FEATURE_ZPCI_ERROR
static_assert(offsetof(vfio_device_info_cap_zpci_base, ccdf_err_length) == 36);
#endif
#endif
