// What Linux keeps of containers, groups, devices, their interrupts and their memory, and what it answers. Read from
// drivers/vfio (vfio_main.c, group.c, container.c, device_cdev.c, vfio_iommu_type1.c, pci/vfio_pci_core.c, pci/vfio_pci_intrs.c) of 5.10 and
// 6.12. Calls return what the kernel would, a negative errno included. One lock is held around all of it.
#pragma once
#include <stdint.h>
#include <stdio.h>

#include "iommufd.h"

#define MOST_VECTORS 256
#define KINDS 5

/** What the machine is like, from $FAKE_VFIO_MODEL. */
struct machine {
  /** 510 or 612, for 5.10 or 6.12. */
  int linux_version;
  /** How many vectors of INTx, MSI, MSI-X, ERR and REQ the device has, and how many of MSI(-X) the host has to give. */
  uint32_t count[KINDS], available;
  uint32_t most_mappings;
  uint64_t page_size;
  /** How many bytes an iommufd may lock. */
  uint64_t most_locked;
  /** It provides the container (drivers/iommu/iommufd/vfio_compat.c). */
  int compat;
};
extern struct machine machine;

/** An eventfd as the kernel holds it: by itself, not by its number. */
struct eventfd {
  int number;
  long id;
};

struct irqs {
  /** The kind that is enabled of the first three, or -1. */
  int type;
  uint32_t contexts;
  struct eventfd trigger[MOST_VECTORS];
  struct eventfd err, req, unmask;
  int masked;
};

struct mapping {
  uint64_t iova, size;
  struct mapping *next;
};

/** Of a container that has an IOMMU; of one that iommufd provides, from its first group on. */
struct type1 {
  /** 1 or 3. */
  int version;
  /** Lowest address first. */
  struct mapping *mappings;
  uint32_t count;
};

// irqs.c
void irqs_off(struct irqs *irqs);
int irqs_info(uint32_t *info);
int irqs_set(struct irqs *irqs, const uint32_t *set);
void irqs_dump(FILE *out, const struct irqs *irqs);

// type1.c
int type1_info(const struct type1 *iommu, uint32_t *info);
int type1_map(struct type1 *iommu, const void *map);
int type1_unmap(struct type1 *iommu, void *unmap);
void type1_clear(struct type1 *iommu);
void type1_dump(FILE *out, const struct type1 *iommu);

// iommufd.c
struct iommufd;
struct iommufd *iommufd_new(void);
/** Its file is closed. */
void iommufd_put(struct iommufd *iommufd);
/** A request by its number, 0x80 and above. */
int iommufd_ioctl(struct iommufd *iommufd, int number, void *argument);
int iommufd_has_group(const struct iommufd *iommufd, int group);
/** The number of a device of a group, until it is unbound. */
uint32_t iommufd_bind(struct iommufd *iommufd, int group);
void iommufd_unbind(struct iommufd *iommufd, uint32_t device);
int iommufd_attach(struct iommufd *iommufd, uint32_t device, uint32_t *pt);
void iommufd_detach(struct iommufd *iommufd, uint32_t device);
void iommufd_dump(FILE *out, const struct iommufd *iommufd);

// model.c
int model_is_on(void);
/** Before a container or group is opened; 0, or what is in the way. */
int model_may_open(const char *path);
void model_opened(int fd, const char *path);
void model_closed(int fd);
/** Another number for the same file. */
void model_duplicated(int from, int to);
/** An ioctl by its number above 100, or above 0 where that is 0x80 or more. `opened`: makes the descriptor of a new device. */
int model_ioctl(int fd, int number, void *argument, int (*opened)(const char *name));
/** All of it as JSON. */
void model_dump(FILE *out);
