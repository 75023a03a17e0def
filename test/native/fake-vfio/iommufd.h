// Structures of /dev/iommu as the kernel has them, for headers that are older than it is.
#pragma once
#include <stdint.h>

struct iommu_ioas_alloc {
  uint32_t size, flags, out_ioas_id;
};
struct iommu_ioas_allow_iovas {
  uint32_t size, ioas_id, num_iovas, reserved;
  uint64_t allowed_iovas;
};
struct iommu_ioas_copy {
  uint32_t size, flags, dst_ioas_id, src_ioas_id;
  uint64_t length, dst_iova, src_iova;
};
struct iommu_ioas_iova_ranges {
  uint32_t size, ioas_id, num_iovas, reserved;
  uint64_t allowed_iovas, out_iova_alignment;
};
struct iommu_ioas_map {
  uint32_t size, flags, ioas_id, reserved;
  uint64_t user_va, length, iova;
};
struct iommu_ioas_map_file {
  uint32_t size, flags, ioas_id;
  int32_t fd;
  uint64_t start, length, iova;
};
struct iommu_ioas_unmap {
  uint32_t size, ioas_id;
  uint64_t iova, length;
};
struct iommu_option {
  uint32_t size, option_id;
  uint16_t op, reserved;
  uint32_t object_id;
  uint64_t val64;
};
struct iommu_hwpt_alloc {
  uint32_t size, flags, dev_id, pt_id, out_hwpt_id, reserved, data_type, data_len;
  uint64_t data_uptr;
  uint32_t fault_id, reserved2;
};
struct iommu_hw_info {
  uint32_t size, flags, dev_id, data_len;
  uint64_t data_uptr;
  uint32_t data_type;
  uint8_t out_max_pasid_log2, reserved[3];
  uint64_t out_capabilities;
};
struct iommu_hwpt_set_dirty_tracking {
  uint32_t size, flags, hwpt_id, reserved;
};
struct iommu_hwpt_get_dirty_bitmap {
  uint32_t size, hwpt_id, flags, reserved;
  uint64_t iova, length, page_size, data;
};
struct iommu_ioas_noiommu_get_pa {
  uint32_t size, flags, ioas_id, reserved;
  uint64_t iova, length, out_phys;
};
struct vfio_bind_iommufd {
  uint32_t argsz, flags;
  int32_t iommufd;
  uint32_t out_devid;
  uint64_t token_uuid_ptr;
};
