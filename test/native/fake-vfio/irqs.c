// The interrupts of a PCI device: what SET_IRQS makes of them.
#include <errno.h>
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model.h"

enum { INTX, MSI, MSIX, ERR, REQ };
static const struct eventfd NONE = {-1, -1};

static int has_dynamic_msix(void) { return machine.linux_version >= 605; }

/** The identity of an eventfd, or a negative errno. */
static long id_of(int number) {
  char path[64], line[128];
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", number);
  FILE *file = fopen(path, "re");
  if (!file) return -EBADF;
  long id = -EINVAL;
  while (fgets(line, sizeof line, file)) sscanf(line, "eventfd-id: %ld", &id);
  fclose(file);
  return id;
}

static int take(struct eventfd *into, int number) {
  long id = id_of(number);
  if (id < 0) return (int)id;
  *into = (struct eventfd){number, id};
  return 0;
}

static int is_set(const struct eventfd *eventfd) { return eventfd->number >= 0; }

/** To the eventfd that was given, not to what has its number now. */
static void signal_eventfd(const struct eventfd *eventfd) {
  uint64_t one = 1;
  if (is_set(eventfd) && id_of(eventfd->number) == eventfd->id && write(eventfd->number, &one, sizeof one) < 0) abort();
}

void irqs_off(struct irqs *irqs) {
  memset(irqs, 0, sizeof *irqs);
  irqs->type = -1;
  for (int i = 0; i < MOST_VECTORS; i++) irqs->trigger[i] = NONE;
  irqs->err = irqs->req = irqs->unmask = NONE;
}

static void disable(struct irqs *irqs) {
  for (uint32_t i = 0; i < MOST_VECTORS; i++) irqs->trigger[i] = NONE;
  irqs->unmask = NONE;
  irqs->contexts = 0;
  irqs->masked = 0;
  irqs->type = -1;
}

int irqs_info(uint32_t *info) {
  struct vfio_irq_info *answer = (void *)info;
  if (answer->argsz < sizeof *answer || answer->index >= KINDS) return -EINVAL;
  if (answer->index == ERR && machine.count[ERR] == 0) return -EINVAL;
  answer->flags = VFIO_IRQ_INFO_EVENTFD;
  answer->count = machine.count[answer->index];
  if (answer->index == INTX)
    answer->flags |= VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
  else if (answer->index != MSIX || !has_dynamic_msix())
    answer->flags |= VFIO_IRQ_INFO_NORESIZE;
  return 0;
}

/** The only vector of INTx. */
static int set_intx_signal(struct irqs *irqs, int fd) {
  struct eventfd next = NONE;
  // Since 6.9 the new one is looked at before the old one is let go.
  if (machine.linux_version < 609) irqs->trigger[0] = NONE;
  if (fd >= 0) {
    int failed = take(&next, fd);
    if (failed) return failed;
  }
  irqs->trigger[0] = next;
  return 0;
}

static int intx_trigger(struct irqs *irqs, const struct vfio_irq_set *set) {
  const int is_intx = irqs->type == INTX;
  if (is_intx && set->count == 0 && set->flags & VFIO_IRQ_SET_DATA_NONE) {
    disable(irqs);
    return 0;
  }
  if (!(is_intx || irqs->type == -1) || set->start != 0 || set->count != 1) return -EINVAL;
  if (set->flags & VFIO_IRQ_SET_DATA_EVENTFD) {
    irqs->type = INTX;
    irqs->contexts = 1;
    int failed = set_intx_signal(irqs, *(const int32_t *)set->data);
    if (failed && !is_intx) disable(irqs);
    return failed;
  }
  if (!is_intx) return -EINVAL;
  // Masked or not.
  signal_eventfd(&irqs->trigger[0]);
  return 0;
}

static int intx_mask(struct irqs *irqs, const struct vfio_irq_set *set) {
  if (irqs->type != INTX || set->start != 0 || set->count != 1) return -EINVAL;
  if (set->flags & VFIO_IRQ_SET_DATA_EVENTFD) return -ENOTTY;
  irqs->masked = 1;
  return 0;
}

static int intx_unmask(struct irqs *irqs, const struct vfio_irq_set *set) {
  if (irqs->type != INTX || set->start != 0 || set->count != 1) return -EINVAL;
  if (set->flags & VFIO_IRQ_SET_DATA_EVENTFD) {
    const int fd = *(const int32_t *)set->data;
    if (fd < 0) {
      irqs->unmask = NONE;
      return 0;
    }
    struct eventfd next;
    int failed = take(&next, fd);
    if (failed) return failed;
    // One that was closed has gone by itself.
    if (is_set(&irqs->unmask) && id_of(irqs->unmask.number) == irqs->unmask.id) return -EBUSY;
    irqs->unmask = next;
    return 0;
  }
  irqs->masked = 0;
  return 0;
}

static int set_vector(struct irqs *irqs, uint32_t vector, int fd, int is_msix) {
  irqs->trigger[vector] = NONE;
  if (fd < 0) return 0;
  if (vector >= irqs->contexts) {
    if (!is_msix || !has_dynamic_msix()) return -EINVAL;
    if (vector >= machine.available) return -ENOSPC;
  }
  return take(&irqs->trigger[vector], fd);
}

static int set_block(struct irqs *irqs, const struct vfio_irq_set *set, int is_msix) {
  const int32_t *fds = (const int32_t *)set->data;
  if (machine.linux_version < 605 && set->start + set->count > irqs->contexts) return -EINVAL;
  for (uint32_t i = 0; i < set->count; i++) {
    int failed = set_vector(irqs, set->start + i, fds[i], is_msix);
    if (!failed) continue;
    for (uint32_t j = 0; j < i; j++) set_vector(irqs, set->start + j, -1, is_msix);
    return failed;
  }
  return 0;
}

static int msi_trigger(struct irqs *irqs, const struct vfio_irq_set *set) {
  const int is_on = irqs->type == (int)set->index, is_msix = set->index == MSIX;
  if (is_on && set->count == 0 && set->flags & VFIO_IRQ_SET_DATA_NONE) {
    disable(irqs);
    return 0;
  }
  if (!is_on && irqs->type != -1) return -EINVAL;
  if (set->flags & VFIO_IRQ_SET_DATA_EVENTFD) {
    if (is_on) return set_block(irqs, set, is_msix);
    if (set->start + set->count > machine.available) return (int)machine.available;
    irqs->type = (int)set->index;
    irqs->contexts = set->start + set->count;
    int failed = set_block(irqs, set, is_msix);
    if (failed) disable(irqs);
    return failed;
  }
  if (!is_on) return -EINVAL;
  if (machine.linux_version < 605 && set->start + set->count > irqs->contexts) return -EINVAL;
  for (uint32_t i = 0; i < set->count; i++) signal_eventfd(&irqs->trigger[set->start + i]);
  return 0;
}

static int single_trigger(struct eventfd *trigger, const struct vfio_irq_set *set) {
  if (set->start != 0 || set->count > 1) return -EINVAL;
  if (set->flags & VFIO_IRQ_SET_DATA_NONE) {
    // The trap: without a trigger there is nothing that could be turned off.
    if (!is_set(trigger)) return -EINVAL;
    if (set->count > 0)
      signal_eventfd(trigger);
    else
      *trigger = NONE;
    return 0;
  }
  if (!(set->flags & VFIO_IRQ_SET_DATA_EVENTFD) || set->count == 0) return -EINVAL;
  const int fd = *(const int32_t *)set->data;
  if (fd == -1) {
    *trigger = NONE;
    return 0;
  }
  return take(trigger, fd);
}

int irqs_set(struct irqs *irqs, const uint32_t *raw) {
  const struct vfio_irq_set *set = (const void *)raw;
  const uint32_t known = VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK;
  if (set->argsz < sizeof *set || set->index >= KINDS || set->flags & ~known) return -EINVAL;
  const uint32_t most = machine.count[set->index];
  if (set->count >= UINT32_MAX - set->start || set->start >= most || set->start + set->count > most) return -EINVAL;
  const uint32_t type = set->flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
  if (type != VFIO_IRQ_SET_DATA_NONE && type != VFIO_IRQ_SET_DATA_EVENTFD) return -EINVAL;
  if (type == VFIO_IRQ_SET_DATA_EVENTFD && set->argsz - sizeof *set < set->count * sizeof(int32_t)) return -EINVAL;
  // With a trigger or without: only INTx can be masked.
  switch (set->flags & VFIO_IRQ_SET_ACTION_TYPE_MASK) {
    case VFIO_IRQ_SET_ACTION_TRIGGER:
      if (set->index == INTX) return intx_trigger(irqs, set);
      if (set->index == ERR) return single_trigger(&irqs->err, set);
      if (set->index == REQ) return single_trigger(&irqs->req, set);
      return msi_trigger(irqs, set);
    case VFIO_IRQ_SET_ACTION_MASK:
      return set->index == INTX ? intx_mask(irqs, set) : -ENOTTY;
    case VFIO_IRQ_SET_ACTION_UNMASK:
      return set->index == INTX ? intx_unmask(irqs, set) : -ENOTTY;
    default:
      return -ENOTTY;
  }
}

void irqs_dump(FILE *out, const struct irqs *irqs) {
  fprintf(out, "\"type\":%d,\"contexts\":%u,\"vectors\":[", irqs->type, irqs->contexts);
  const char *comma = "";
  for (int i = 0; i < MOST_VECTORS; i++) {
    if (!is_set(&irqs->trigger[i])) continue;
    fprintf(out, "%s[%d,%d]", comma, i, irqs->trigger[i].number);
    comma = ",";
  }
  fprintf(out, "],\"err\":%d,\"req\":%d,\"unmask\":%d,\"masked\":%d", irqs->err.number, irqs->req.number,
          irqs->unmask.number, irqs->masked);
}
