// Requests and structures of /dev/iommu and of devices opened by their own node, which each kernel has more of: defined here,
// because headers may be older than kernels, and pinned against the system's headers where these have them.
#pragma once

#include <linux/version.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#if __has_include(<linux/iommufd.h>)
#include <linux/iommufd.h>
#endif

#include <cstddef>
#include <cstdint>

namespace vfio {
namespace uapi {

/** IOMMU_DESTROY, since Linux 6.2. */
struct IommuDestroy {
  uint32_t size;
  uint32_t id;
};

/** IOMMU_IOAS_ALLOC, since Linux 6.2. */
struct IoasAlloc {
  uint32_t size;
  uint32_t flags;
  uint32_t out_ioas_id;
};

/** IOMMU_IOAS_IOVA_RANGES and its ranges, since Linux 6.2. */
struct IoasIovaRanges {
  uint32_t size;
  uint32_t ioas_id;
  uint32_t num_iovas;
  uint32_t reserved;
  uint64_t allowed_iovas;
  uint64_t out_iova_alignment;
};
struct IovaRange {
  uint64_t start;
  uint64_t last;
};

/** IOMMU_IOAS_ALLOW_IOVAS, since Linux 6.2. */
struct IoasAllowIovas {
  uint32_t size;
  uint32_t ioas_id;
  uint32_t num_iovas;
  uint32_t reserved;
  uint64_t allowed_iovas;
};

/** IOMMU_IOAS_MAP, since Linux 6.2. */
struct IoasMap {
  uint32_t size;
  uint32_t flags;
  uint32_t ioas_id;
  uint32_t reserved;
  uint64_t user_va;
  uint64_t length;
  uint64_t iova;
};

/** IOMMU_IOAS_MAP_FILE, since Linux 6.13. */
struct IoasMapFile {
  uint32_t size;
  uint32_t flags;
  uint32_t ioas_id;
  int32_t fd;
  uint64_t start;
  uint64_t length;
  uint64_t iova;
};

/** IOMMU_IOAS_COPY, since Linux 6.2. */
struct IoasCopy {
  uint32_t size;
  uint32_t flags;
  uint32_t dst_ioas_id;
  uint32_t src_ioas_id;
  uint64_t length;
  uint64_t dst_iova;
  uint64_t src_iova;
};

/** IOMMU_IOAS_UNMAP, since Linux 6.2. */
struct IoasUnmap {
  uint32_t size;
  uint32_t ioas_id;
  uint64_t iova;
  uint64_t length;
};

/** IOMMU_OPTION, since Linux 6.2. */
struct IommuOption {
  uint32_t size;
  uint32_t option_id;
  uint16_t op;
  uint16_t reserved;
  uint32_t object_id;
  uint64_t val64;
};

/** IOMMU_HWPT_ALLOC, since Linux 6.6; from `data_type` on since 6.7, `fault_id` since 6.11. */
struct HwptAlloc {
  uint32_t size;
  uint32_t flags;
  uint32_t dev_id;
  uint32_t pt_id;
  uint32_t out_hwpt_id;
  uint32_t reserved;
  uint32_t data_type;
  uint32_t data_len;
  uint64_t data_uptr;
  uint32_t fault_id;
  uint32_t reserved2;
};

/** IOMMU_GET_HW_INFO, since Linux 6.6; `out_capabilities` since 6.7, `out_max_pasid_log2` since 6.15. */
struct HwInfo {
  uint32_t size;
  uint32_t flags;
  uint32_t dev_id;
  uint32_t data_len;
  uint64_t data_uptr;
  uint32_t data_type;
  uint8_t out_max_pasid_log2;
  uint8_t reserved[3];
  uint64_t out_capabilities;
};

/** IOMMU_HWPT_SET_DIRTY_TRACKING, since Linux 6.7. */
struct HwptSetDirtyTracking {
  uint32_t size;
  uint32_t flags;
  uint32_t hwpt_id;
  uint32_t reserved;
};

/** IOMMU_HWPT_GET_DIRTY_BITMAP, since Linux 6.7. */
struct HwptGetDirtyBitmap {
  uint32_t size;
  uint32_t hwpt_id;
  uint32_t flags;
  uint32_t reserved;
  uint64_t iova;
  uint64_t length;
  uint64_t page_size;
  uint64_t data;
};

/** IOMMU_IOAS_CHANGE_PROCESS, since Linux 6.13. */
struct IoasChangeProcess {
  uint32_t size;
  uint32_t reserved;
};

/** IOMMU_IOAS_NOIOMMU_GET_PA, since Linux 7.3. */
struct IoasNoiommuGetPa {
  uint32_t size;
  uint32_t flags;
  uint32_t ioas_id;
  uint32_t reserved;
  uint64_t iova;
  uint64_t length;
  uint64_t out_phys;
};

/** VFIO_DEVICE_BIND_IOMMUFD, since Linux 6.6; the token since 6.18. */
struct BindIommufd {
  uint32_t argsz;
  uint32_t flags;
  int32_t iommufd;
  uint32_t out_devid;
  uint64_t token_uuid_ptr;
};

/** VFIO_DEVICE_ATTACH_IOMMUFD_PT, since Linux 6.6; `pasid` since 6.15. */
struct AttachIommufdPt {
  uint32_t argsz;
  uint32_t flags;
  uint32_t pt_id;
  uint32_t pasid;
};

/** VFIO_DEVICE_DETACH_IOMMUFD_PT, since Linux 6.6; `pasid` since 6.15. */
struct DetachIommufdPt {
  uint32_t argsz;
  uint32_t flags;
  uint32_t pasid;
};

constexpr unsigned long IommufdRequest(unsigned number) {
  return _IO(';', number);
}

constexpr unsigned long kIommuDestroy = IommufdRequest(0x80);
constexpr unsigned long kIoasAlloc = IommufdRequest(0x81);
constexpr unsigned long kIoasAllowIovas = IommufdRequest(0x82);
constexpr unsigned long kIoasCopy = IommufdRequest(0x83);
constexpr unsigned long kIoasIovaRanges = IommufdRequest(0x84);
constexpr unsigned long kIoasMap = IommufdRequest(0x85);
constexpr unsigned long kIoasUnmap = IommufdRequest(0x86);
constexpr unsigned long kIommuOption = IommufdRequest(0x87);
constexpr unsigned long kHwptAlloc = IommufdRequest(0x89);
constexpr unsigned long kGetHwInfo = IommufdRequest(0x8a);
constexpr unsigned long kHwptSetDirtyTracking = IommufdRequest(0x8b);
constexpr unsigned long kHwptGetDirtyBitmap = IommufdRequest(0x8c);
constexpr unsigned long kIoasMapFile = IommufdRequest(0x8f);
constexpr unsigned long kIoasChangeProcess = IommufdRequest(0x92);
constexpr unsigned long kIoasNoiommuGetPa = IommufdRequest(0x95);
constexpr unsigned long kBindIommufd = IommufdRequest(VFIO_BASE + 18);
constexpr unsigned long kAttachIommufdPt = IommufdRequest(VFIO_BASE + 19);
constexpr unsigned long kDetachIommufdPt = IommufdRequest(VFIO_BASE + 20);

/** VFIO_DEVICE_BIND_FLAG_TOKEN, VFIO_DEVICE_ATTACH_PASID, VFIO_DEVICE_DETACH_PASID: all the same bit. */
constexpr uint32_t kFlagOfLastMember = 1;
/** What a token has, as that of VFIO_DEVICE_FEATURE_PCI_VF_TOKEN. */
constexpr size_t kTokenSize = 16;

static_assert(sizeof(IommuDestroy) == 8);
static_assert(offsetof(IommuDestroy, id) == 4);

static_assert(sizeof(IoasAlloc) == 12);
static_assert(offsetof(IoasAlloc, out_ioas_id) == 8);

static_assert(sizeof(IoasIovaRanges) == 32);
static_assert(offsetof(IoasIovaRanges, num_iovas) == 8);
static_assert(offsetof(IoasIovaRanges, allowed_iovas) == 16);
static_assert(offsetof(IoasIovaRanges, out_iova_alignment) == 24);
static_assert(sizeof(IovaRange) == 16);
static_assert(offsetof(IovaRange, last) == 8);

static_assert(sizeof(IoasAllowIovas) == 24);
static_assert(offsetof(IoasAllowIovas, num_iovas) == 8);
static_assert(offsetof(IoasAllowIovas, allowed_iovas) == 16);

static_assert(sizeof(IoasMap) == 40);
static_assert(offsetof(IoasMap, flags) == 4);
static_assert(offsetof(IoasMap, ioas_id) == 8);
static_assert(offsetof(IoasMap, user_va) == 16);
static_assert(offsetof(IoasMap, length) == 24);
static_assert(offsetof(IoasMap, iova) == 32);

static_assert(sizeof(IoasMapFile) == 40);
static_assert(offsetof(IoasMapFile, flags) == 4);
static_assert(offsetof(IoasMapFile, ioas_id) == 8);
static_assert(offsetof(IoasMapFile, fd) == 12);
static_assert(offsetof(IoasMapFile, start) == 16);
static_assert(offsetof(IoasMapFile, length) == 24);
static_assert(offsetof(IoasMapFile, iova) == 32);

static_assert(sizeof(IoasCopy) == 40);
static_assert(offsetof(IoasCopy, flags) == 4);
static_assert(offsetof(IoasCopy, dst_ioas_id) == 8);
static_assert(offsetof(IoasCopy, src_ioas_id) == 12);
static_assert(offsetof(IoasCopy, length) == 16);
static_assert(offsetof(IoasCopy, dst_iova) == 24);
static_assert(offsetof(IoasCopy, src_iova) == 32);

static_assert(sizeof(IoasUnmap) == 24);
static_assert(offsetof(IoasUnmap, ioas_id) == 4);
static_assert(offsetof(IoasUnmap, iova) == 8);
static_assert(offsetof(IoasUnmap, length) == 16);

static_assert(sizeof(IommuOption) == 24);
static_assert(offsetof(IommuOption, option_id) == 4);
static_assert(offsetof(IommuOption, op) == 8);
static_assert(offsetof(IommuOption, object_id) == 12);
static_assert(offsetof(IommuOption, val64) == 16);

static_assert(sizeof(HwptAlloc) == 48);
static_assert(offsetof(HwptAlloc, flags) == 4);
static_assert(offsetof(HwptAlloc, dev_id) == 8);
static_assert(offsetof(HwptAlloc, pt_id) == 12);
static_assert(offsetof(HwptAlloc, out_hwpt_id) == 16);
static_assert(offsetof(HwptAlloc, data_type) == 24);
static_assert(offsetof(HwptAlloc, data_len) == 28);
static_assert(offsetof(HwptAlloc, data_uptr) == 32);
static_assert(offsetof(HwptAlloc, fault_id) == 40);

static_assert(sizeof(HwInfo) == 40);
static_assert(offsetof(HwInfo, flags) == 4);
static_assert(offsetof(HwInfo, dev_id) == 8);
static_assert(offsetof(HwInfo, data_len) == 12);
static_assert(offsetof(HwInfo, data_uptr) == 16);
static_assert(offsetof(HwInfo, data_type) == 24);
static_assert(offsetof(HwInfo, out_max_pasid_log2) == 28);
static_assert(offsetof(HwInfo, out_capabilities) == 32);

static_assert(sizeof(HwptSetDirtyTracking) == 16);
static_assert(offsetof(HwptSetDirtyTracking, flags) == 4);
static_assert(offsetof(HwptSetDirtyTracking, hwpt_id) == 8);

static_assert(sizeof(HwptGetDirtyBitmap) == 48);
static_assert(offsetof(HwptGetDirtyBitmap, hwpt_id) == 4);
static_assert(offsetof(HwptGetDirtyBitmap, flags) == 8);
static_assert(offsetof(HwptGetDirtyBitmap, iova) == 16);
static_assert(offsetof(HwptGetDirtyBitmap, length) == 24);
static_assert(offsetof(HwptGetDirtyBitmap, page_size) == 32);
static_assert(offsetof(HwptGetDirtyBitmap, data) == 40);

static_assert(sizeof(IoasChangeProcess) == 8);

static_assert(sizeof(IoasNoiommuGetPa) == 40);
static_assert(offsetof(IoasNoiommuGetPa, ioas_id) == 8);
static_assert(offsetof(IoasNoiommuGetPa, iova) == 16);
static_assert(offsetof(IoasNoiommuGetPa, length) == 24);
static_assert(offsetof(IoasNoiommuGetPa, out_phys) == 32);

static_assert(sizeof(BindIommufd) == 24);
static_assert(offsetof(BindIommufd, flags) == 4);
static_assert(offsetof(BindIommufd, iommufd) == 8);
static_assert(offsetof(BindIommufd, out_devid) == 12);
static_assert(offsetof(BindIommufd, token_uuid_ptr) == 16);
static_assert(sizeof(AttachIommufdPt) == 16);
static_assert(offsetof(AttachIommufdPt, flags) == 4);
static_assert(offsetof(AttachIommufdPt, pt_id) == 8);
static_assert(offsetof(AttachIommufdPt, pasid) == 12);
static_assert(sizeof(DetachIommufdPt) == 12);
static_assert(offsetof(DetachIommufdPt, flags) == 4);
static_assert(offsetof(DetachIommufdPt, pasid) == 8);

// Same place and same size; where the system's structure has not grown yet, what it has is a beginning of ours.
#define VFIO_SAME(ours, system, member)                              \
  static_assert(offsetof(ours, member) == offsetof(system, member)); \
  static_assert(sizeof(ours::member) == sizeof(system::member))

#ifdef IOMMU_IOAS_MAP
static_assert(IOMMU_DESTROY == kIommuDestroy);
static_assert(IOMMU_IOAS_ALLOC == kIoasAlloc);
static_assert(IOMMU_IOAS_ALLOW_IOVAS == kIoasAllowIovas);
static_assert(IOMMU_IOAS_COPY == kIoasCopy);
static_assert(IOMMU_IOAS_IOVA_RANGES == kIoasIovaRanges);
static_assert(IOMMU_IOAS_MAP == kIoasMap);
static_assert(IOMMU_IOAS_UNMAP == kIoasUnmap);
static_assert(IOMMU_OPTION == kIommuOption);
static_assert(sizeof(iommu_destroy) == sizeof(IommuDestroy));
VFIO_SAME(IommuDestroy, iommu_destroy, id);
static_assert(sizeof(iommu_ioas_alloc) == sizeof(IoasAlloc));
VFIO_SAME(IoasAlloc, iommu_ioas_alloc, out_ioas_id);
static_assert(sizeof(iommu_ioas_iova_ranges) == sizeof(IoasIovaRanges));
VFIO_SAME(IoasIovaRanges, iommu_ioas_iova_ranges, num_iovas);
VFIO_SAME(IoasIovaRanges, iommu_ioas_iova_ranges, allowed_iovas);
VFIO_SAME(IoasIovaRanges, iommu_ioas_iova_ranges, out_iova_alignment);
static_assert(sizeof(iommu_iova_range) == sizeof(IovaRange));
VFIO_SAME(IovaRange, iommu_iova_range, last);
static_assert(sizeof(iommu_ioas_allow_iovas) == sizeof(IoasAllowIovas));
VFIO_SAME(IoasAllowIovas, iommu_ioas_allow_iovas, num_iovas);
VFIO_SAME(IoasAllowIovas, iommu_ioas_allow_iovas, allowed_iovas);
static_assert(sizeof(iommu_ioas_map) == sizeof(IoasMap));
VFIO_SAME(IoasMap, iommu_ioas_map, flags);
VFIO_SAME(IoasMap, iommu_ioas_map, ioas_id);
VFIO_SAME(IoasMap, iommu_ioas_map, user_va);
VFIO_SAME(IoasMap, iommu_ioas_map, length);
VFIO_SAME(IoasMap, iommu_ioas_map, iova);
static_assert(sizeof(iommu_ioas_copy) == sizeof(IoasCopy));
VFIO_SAME(IoasCopy, iommu_ioas_copy, dst_ioas_id);
VFIO_SAME(IoasCopy, iommu_ioas_copy, src_ioas_id);
VFIO_SAME(IoasCopy, iommu_ioas_copy, length);
VFIO_SAME(IoasCopy, iommu_ioas_copy, dst_iova);
VFIO_SAME(IoasCopy, iommu_ioas_copy, src_iova);
static_assert(sizeof(iommu_ioas_unmap) == sizeof(IoasUnmap));
VFIO_SAME(IoasUnmap, iommu_ioas_unmap, ioas_id);
VFIO_SAME(IoasUnmap, iommu_ioas_unmap, iova);
VFIO_SAME(IoasUnmap, iommu_ioas_unmap, length);
static_assert(sizeof(iommu_option) == sizeof(IommuOption));
VFIO_SAME(IommuOption, iommu_option, option_id);
VFIO_SAME(IommuOption, iommu_option, op);
VFIO_SAME(IommuOption, iommu_option, object_id);
VFIO_SAME(IommuOption, iommu_option, val64);
#endif

#ifdef IOMMU_HWPT_ALLOC
static_assert(IOMMU_HWPT_ALLOC == kHwptAlloc);
static_assert(sizeof(iommu_hwpt_alloc) <= sizeof(HwptAlloc));
VFIO_SAME(HwptAlloc, iommu_hwpt_alloc, flags);
VFIO_SAME(HwptAlloc, iommu_hwpt_alloc, dev_id);
VFIO_SAME(HwptAlloc, iommu_hwpt_alloc, pt_id);
VFIO_SAME(HwptAlloc, iommu_hwpt_alloc, out_hwpt_id);
#endif

#ifdef IOMMU_GET_HW_INFO
static_assert(IOMMU_GET_HW_INFO == kGetHwInfo);
static_assert(sizeof(iommu_hw_info) <= sizeof(HwInfo));
VFIO_SAME(HwInfo, iommu_hw_info, flags);
VFIO_SAME(HwInfo, iommu_hw_info, dev_id);
VFIO_SAME(HwInfo, iommu_hw_info, data_len);
VFIO_SAME(HwInfo, iommu_hw_info, data_uptr);
#endif

#ifdef IOMMU_HWPT_SET_DIRTY_TRACKING
static_assert(IOMMU_HWPT_SET_DIRTY_TRACKING == kHwptSetDirtyTracking);
static_assert(IOMMU_HWPT_GET_DIRTY_BITMAP == kHwptGetDirtyBitmap);
static_assert(sizeof(iommu_hwpt_set_dirty_tracking) == sizeof(HwptSetDirtyTracking));
VFIO_SAME(HwptSetDirtyTracking, iommu_hwpt_set_dirty_tracking, hwpt_id);
static_assert(sizeof(iommu_hwpt_get_dirty_bitmap) == sizeof(HwptGetDirtyBitmap));
VFIO_SAME(HwptGetDirtyBitmap, iommu_hwpt_get_dirty_bitmap, hwpt_id);
VFIO_SAME(HwptGetDirtyBitmap, iommu_hwpt_get_dirty_bitmap, flags);
VFIO_SAME(HwptGetDirtyBitmap, iommu_hwpt_get_dirty_bitmap, iova);
VFIO_SAME(HwptGetDirtyBitmap, iommu_hwpt_get_dirty_bitmap, length);
VFIO_SAME(HwptGetDirtyBitmap, iommu_hwpt_get_dirty_bitmap, page_size);
VFIO_SAME(HwptGetDirtyBitmap, iommu_hwpt_get_dirty_bitmap, data);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
VFIO_SAME(HwptAlloc, iommu_hwpt_alloc, data_type);
VFIO_SAME(HwptAlloc, iommu_hwpt_alloc, data_len);
VFIO_SAME(HwptAlloc, iommu_hwpt_alloc, data_uptr);
VFIO_SAME(HwInfo, iommu_hw_info, out_capabilities);
#endif
#endif

#ifdef IOMMU_FAULT_QUEUE_ALLOC
VFIO_SAME(HwptAlloc, iommu_hwpt_alloc, fault_id);
#endif

#ifdef IOMMU_IOAS_MAP_FILE
static_assert(IOMMU_IOAS_MAP_FILE == kIoasMapFile);
static_assert(sizeof(iommu_ioas_map_file) == sizeof(IoasMapFile));
VFIO_SAME(IoasMapFile, iommu_ioas_map_file, fd);
VFIO_SAME(IoasMapFile, iommu_ioas_map_file, start);
VFIO_SAME(IoasMapFile, iommu_ioas_map_file, length);
VFIO_SAME(IoasMapFile, iommu_ioas_map_file, iova);
#endif

#ifdef IOMMU_IOAS_CHANGE_PROCESS
static_assert(IOMMU_IOAS_CHANGE_PROCESS == kIoasChangeProcess);
static_assert(sizeof(iommu_ioas_change_process) == sizeof(IoasChangeProcess));
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 16, 0)
VFIO_SAME(HwInfo, iommu_hw_info, out_max_pasid_log2);
#endif

#ifdef IOMMU_IOAS_NOIOMMU_GET_PA
static_assert(IOMMU_IOAS_NOIOMMU_GET_PA == kIoasNoiommuGetPa);
static_assert(sizeof(iommu_ioas_noiommu_get_pa) == sizeof(IoasNoiommuGetPa));
VFIO_SAME(IoasNoiommuGetPa, iommu_ioas_noiommu_get_pa, iova);
VFIO_SAME(IoasNoiommuGetPa, iommu_ioas_noiommu_get_pa, length);
VFIO_SAME(IoasNoiommuGetPa, iommu_ioas_noiommu_get_pa, out_phys);
#endif

#ifdef VFIO_DEVICE_BIND_IOMMUFD
static_assert(VFIO_DEVICE_BIND_IOMMUFD == kBindIommufd);
static_assert(VFIO_DEVICE_ATTACH_IOMMUFD_PT == kAttachIommufdPt);
static_assert(VFIO_DEVICE_DETACH_IOMMUFD_PT == kDetachIommufdPt);
VFIO_SAME(BindIommufd, vfio_device_bind_iommufd, iommufd);
VFIO_SAME(BindIommufd, vfio_device_bind_iommufd, out_devid);
VFIO_SAME(AttachIommufdPt, vfio_device_attach_iommufd_pt, pt_id);
static_assert(sizeof(vfio_device_detach_iommufd_pt) <= sizeof(DetachIommufdPt));
#endif

#ifdef VFIO_DEVICE_BIND_FLAG_TOKEN
static_assert(VFIO_DEVICE_BIND_FLAG_TOKEN == kFlagOfLastMember);
VFIO_SAME(BindIommufd, vfio_device_bind_iommufd, token_uuid_ptr);
#endif

#ifdef VFIO_DEVICE_ATTACH_PASID
static_assert(VFIO_DEVICE_ATTACH_PASID == kFlagOfLastMember);
static_assert(VFIO_DEVICE_DETACH_PASID == kFlagOfLastMember);
VFIO_SAME(AttachIommufdPt, vfio_device_attach_iommufd_pt, pasid);
VFIO_SAME(DetachIommufdPt, vfio_device_detach_iommufd_pt, pasid);
#endif

#undef VFIO_SAME

}  // namespace uapi
}  // namespace vfio
