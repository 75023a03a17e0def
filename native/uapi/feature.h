// Device features (VFIO_DEVICE_FEATURE), which each kernel has more of: defined here, and pinned against the
// system's header where it has them. Bytes that lib/vfio/ writes or reads itself are pinned by offset.
#pragma once

#include <linux/vfio.h>

#include <cstddef>
#include <cstdint>

namespace vfio {
namespace uapi {

/** The head that every feature's data follows. */
template <typename T>
struct Feature {
  uint32_t argsz;
  uint32_t flags;
  T data;
};

/** VFIO_DEVICE_FEATURE_MIGRATION, since Linux 5.18. */
struct Migration {
  uint64_t flags;
};

/** VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, since Linux 5.18. */
struct MigrationState {
  uint32_t device_state;
  int32_t data_fd;
};

/** VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP, since Linux 6.1. */
struct LowPowerEntryWithWakeup {
  int32_t wakeup_eventfd;
  uint32_t reserved;
};

/** VFIO_DEVICE_FEATURE_DMA_LOGGING_START, since Linux 6.1. */
struct DmaLoggingControl {
  uint64_t page_size;
  uint32_t num_ranges;
  uint32_t reserved;
  uint64_t ranges;
};
struct DmaLoggingRange {
  uint64_t iova;
  uint64_t length;
};

/** VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, since Linux 6.1. */
struct DmaLoggingReport {
  uint64_t iova;
  uint64_t length;
  uint64_t page_size;
  uint64_t bitmap;
};

/** VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, since Linux 6.2. */
struct MigrationDataSize {
  uint64_t stop_copy_length;
};

/** VFIO_DEVICE_FEATURE_DMA_BUF, since Linux 6.19; as many ranges follow as it says. */
struct DmaBufRequest {
  uint32_t region_index;
  uint32_t open_flags;
  uint32_t flags;
  uint32_t nr_ranges;
};
struct RegionDmaRange {
  uint64_t offset;
  uint64_t length;
};

/** VFIO_MIG_GET_PRECOPY_INFO of a file of migration data, since Linux 6.2. */
struct PrecopyInfo {
  uint32_t argsz;
  uint32_t flags;
  uint64_t initial_bytes;
  uint64_t dirty_bytes;
};

constexpr uint32_t kMigrationState = 2;
constexpr uint32_t kDmaLoggingStart = 6;
constexpr uint32_t kDmaLoggingReport = 8;
constexpr uint32_t kDmaBuf = 11;
/** VFIO_DEVICE_FEATURE_ZPCI_ERROR, in Linux 7.3: its data is an address. */
constexpr uint32_t kZpciError = 13;
constexpr unsigned long kGetPrecopyInfo = _IO(VFIO_TYPE, VFIO_BASE + 21);

static_assert(sizeof(vfio_device_feature) == 8);
static_assert(offsetof(vfio_device_feature, flags) == 4);
static_assert(offsetof(vfio_device_feature, data) == 8);
static_assert(offsetof(Feature<MigrationState>, flags) == 4);
static_assert(offsetof(Feature<MigrationState>, data) == 8);
static_assert(offsetof(Feature<DmaLoggingReport>, data) == 8);
static_assert(VFIO_DEVICE_FEATURE_GET == 1 << 16);
static_assert(VFIO_DEVICE_FEATURE_SET == 1 << 17);
static_assert(VFIO_DEVICE_FEATURE_PROBE == 1 << 18);
static_assert(VFIO_DEVICE_FEATURE_PCI_VF_TOKEN == 0);

static_assert(sizeof(Migration) == 8);
static_assert(sizeof(MigrationState) == 8);
static_assert(offsetof(MigrationState, data_fd) == 4);
static_assert(sizeof(LowPowerEntryWithWakeup) == 8);
static_assert(offsetof(LowPowerEntryWithWakeup, reserved) == 4);
static_assert(sizeof(DmaLoggingControl) == 24);
static_assert(offsetof(DmaLoggingControl, num_ranges) == 8);
static_assert(offsetof(DmaLoggingControl, ranges) == 16);
static_assert(sizeof(DmaLoggingRange) == 16);
static_assert(offsetof(DmaLoggingRange, length) == 8);
static_assert(sizeof(DmaLoggingReport) == 32);
static_assert(offsetof(DmaLoggingReport, length) == 8);
static_assert(offsetof(DmaLoggingReport, page_size) == 16);
static_assert(offsetof(DmaLoggingReport, bitmap) == 24);
static_assert(sizeof(MigrationDataSize) == 8);
static_assert(sizeof(Feature<DmaBufRequest>) == 24);
static_assert(offsetof(DmaBufRequest, open_flags) == 4);
static_assert(offsetof(DmaBufRequest, nr_ranges) == 12);
static_assert(sizeof(RegionDmaRange) == 16);
static_assert(offsetof(RegionDmaRange, length) == 8);
static_assert(sizeof(PrecopyInfo) == 24);
static_assert(offsetof(PrecopyInfo, flags) == 4);
static_assert(offsetof(PrecopyInfo, initial_bytes) == 8);
static_assert(offsetof(PrecopyInfo, dirty_bytes) == 16);

#ifdef VFIO_DEVICE_FEATURE_MIGRATION
static_assert(VFIO_DEVICE_FEATURE_MIGRATION == 1);
static_assert(sizeof(vfio_device_feature_migration) == sizeof(Migration));
#endif

#ifdef VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
static_assert(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE == kMigrationState);
static_assert(sizeof(vfio_device_feature_mig_state) == sizeof(MigrationState));
static_assert(offsetof(vfio_device_feature_mig_state, data_fd) == offsetof(MigrationState, data_fd));
static_assert(VFIO_DEVICE_STATE_ERROR == 0);
static_assert(VFIO_DEVICE_STATE_STOP == 1);
static_assert(VFIO_DEVICE_STATE_RUNNING == 2);
static_assert(VFIO_DEVICE_STATE_STOP_COPY == 3);
static_assert(VFIO_DEVICE_STATE_RESUMING == 4);
static_assert(VFIO_DEVICE_STATE_RUNNING_P2P == 5);
#endif

#ifdef VFIO_MIGRATION_PRE_COPY
static_assert(VFIO_MIGRATION_PRE_COPY == 1 << 2);
static_assert(VFIO_DEVICE_STATE_PRE_COPY == 6);
static_assert(VFIO_DEVICE_STATE_PRE_COPY_P2P == 7);
static_assert(VFIO_MIG_GET_PRECOPY_INFO == kGetPrecopyInfo);
static_assert(sizeof(vfio_precopy_info) == sizeof(PrecopyInfo));
static_assert(offsetof(vfio_precopy_info, initial_bytes) == offsetof(PrecopyInfo, initial_bytes));
static_assert(offsetof(vfio_precopy_info, dirty_bytes) == offsetof(PrecopyInfo, dirty_bytes));
#endif

#ifdef VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY
static_assert(VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY == 3);
static_assert(VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP == 4);
static_assert(VFIO_DEVICE_FEATURE_LOW_POWER_EXIT == 5);
static_assert(sizeof(vfio_device_low_power_entry_with_wakeup) == sizeof(LowPowerEntryWithWakeup));
static_assert(offsetof(vfio_device_low_power_entry_with_wakeup, reserved) ==
              offsetof(LowPowerEntryWithWakeup, reserved));
#endif

#ifdef VFIO_DEVICE_FEATURE_DMA_LOGGING_START
static_assert(VFIO_DEVICE_FEATURE_DMA_LOGGING_START == kDmaLoggingStart);
static_assert(VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP == 7);
static_assert(VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT == kDmaLoggingReport);
static_assert(sizeof(vfio_device_feature_dma_logging_control) == sizeof(DmaLoggingControl));
static_assert(offsetof(vfio_device_feature_dma_logging_control, num_ranges) ==
              offsetof(DmaLoggingControl, num_ranges));
static_assert(offsetof(vfio_device_feature_dma_logging_control, ranges) ==
              offsetof(DmaLoggingControl, ranges));
static_assert(sizeof(vfio_device_feature_dma_logging_range) == sizeof(DmaLoggingRange));
static_assert(offsetof(vfio_device_feature_dma_logging_range, length) == offsetof(DmaLoggingRange, length));
static_assert(sizeof(vfio_device_feature_dma_logging_report) == sizeof(DmaLoggingReport));
static_assert(offsetof(vfio_device_feature_dma_logging_report, page_size) ==
              offsetof(DmaLoggingReport, page_size));
static_assert(offsetof(vfio_device_feature_dma_logging_report, bitmap) == offsetof(DmaLoggingReport, bitmap));
#endif

#ifdef VFIO_DEVICE_FEATURE_MIG_DATA_SIZE
static_assert(VFIO_DEVICE_FEATURE_MIG_DATA_SIZE == 9);
static_assert(sizeof(vfio_device_feature_mig_data_size) == sizeof(MigrationDataSize));
#endif

#ifdef VFIO_DEVICE_FEATURE_BUS_MASTER
static_assert(VFIO_DEVICE_FEATURE_BUS_MASTER == 10);
#endif

#ifdef VFIO_DEVICE_FEATURE_DMA_BUF
static_assert(VFIO_DEVICE_FEATURE_DMA_BUF == kDmaBuf);
static_assert(sizeof(vfio_device_feature_dma_buf) == sizeof(DmaBufRequest));
static_assert(offsetof(vfio_device_feature_dma_buf, open_flags) == offsetof(DmaBufRequest, open_flags));
static_assert(offsetof(vfio_device_feature_dma_buf, nr_ranges) == offsetof(DmaBufRequest, nr_ranges));
static_assert(offsetof(vfio_device_feature_dma_buf, dma_ranges) == sizeof(DmaBufRequest));
static_assert(sizeof(vfio_region_dma_range) == sizeof(RegionDmaRange));
static_assert(offsetof(vfio_region_dma_range, length) == offsetof(RegionDmaRange, length));
#endif

#ifdef VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2
static_assert(VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 == 12);
#endif

#ifdef VFIO_DEVICE_FEATURE_ZPCI_ERROR
static_assert(VFIO_DEVICE_FEATURE_ZPCI_ERROR == kZpciError);
static_assert(sizeof(vfio_device_feature_zpci_err) == sizeof(uint64_t));
#endif

}  // namespace uapi
}  // namespace vfio
