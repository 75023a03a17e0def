// The peer of nvme.ts: a user-space NVMe driver in C that does nothing but random reads of 4 KiB, by polling.
// One I/O queue pair; each batch of submissions and each batch of completions rings its doorbell once. Prints
// the nanoseconds that a read takes. Arguments: group, address, reads, queue depth, seed.
#include <stdint.h>
#include <string.h>

#include "device.h"

// Registers (NVM Express base specification, section 3.1).
#define CAP 0x00
#define CC 0x14
#define CSTS 0x1c
#define AQA 0x24
#define ASQ 0x28
#define ACQ 0x30
#define DOORBELLS 0x1000

#define PAGE 4096
#define ENTRIES 64
#define IOVA 0x10000000ull
// Pages of the memory that the controller sees.
enum { ADMIN_SQ, ADMIN_CQ, IO_SQ, IO_CQ, IDENTIFY, DATA };

struct command {
  uint32_t opcode_and_id;
  uint32_t nsid;
  uint32_t reserved[2];
  uint64_t metadata;
  uint64_t prp1;
  uint64_t prp2;
  uint32_t parameters[6];
};

struct completion {
  uint32_t result;
  uint32_t reserved;
  uint16_t sq_head;
  uint16_t sq_id;
  uint16_t id;
  /** Bit 0 is the phase. */
  uint16_t status;
};

struct queue {
  struct command* commands;
  volatile struct completion* completions;
  volatile uint32_t* sq_doorbell;
  volatile uint32_t* cq_doorbell;
  unsigned tail;
  unsigned head;
  unsigned phase;
};

static char* memory;
static volatile char* registers;

static void* page(unsigned n) {
  return memory + n * PAGE;
}
static uint64_t iova(unsigned n) {
  return IOVA + n * PAGE;
}
static volatile uint32_t* register32(unsigned offset) {
  return (volatile uint32_t*)(registers + offset);
}

static void fail(const char* what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static void write64(unsigned offset, uint64_t value) {
  *register32(offset) = (uint32_t)value;
  *register32(offset + 4) = (uint32_t)(value >> 32);
}

static void await_ready(uint32_t ready) {
  while ((*register32(CSTS) & 1) != ready) {
    if (*register32(CSTS) & 2) fail("the controller reports a fatal status");
  }
}

static struct queue open_queue(unsigned id, unsigned sq, unsigned cq) {
  const unsigned stride = 4u << (*register32(CAP + 4) & 15);
  return (struct queue){
      .commands = page(sq),
      .completions = page(cq),
      .sq_doorbell = register32(DOORBELLS + 2 * id * stride),
      .cq_doorbell = register32(DOORBELLS + (2 * id + 1) * stride),
      .phase = 1,
  };
}

static void put(struct queue* queue, const struct command* command) {
  queue->commands[queue->tail] = *command;
  queue->tail = (queue->tail + 1) % ENTRIES;
}

static void ring(volatile uint32_t* doorbell, unsigned value) {
  // The controller sees the entries before the doorbell.
  __atomic_thread_fence(__ATOMIC_RELEASE);
  *doorbell = value;
}

/** Takes one completion when there is one; its doorbell is the caller's to ring. */
static int take(struct queue* queue, unsigned* id) {
  volatile struct completion* completion = &queue->completions[queue->head];
  const unsigned status = completion->status;
  if ((status & 1) != queue->phase) return 0;
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  if (status >> 1) fail("a command failed");
  *id = completion->id;
  if (++queue->head == ENTRIES) {
    queue->head = 0;
    queue->phase ^= 1;
  }
  return 1;
}

static void run(struct queue* admin, struct command command) {
  unsigned id;
  put(admin, &command);
  ring(admin->sq_doorbell, admin->tail);
  while (!take(admin, &id)) continue;
  ring(admin->cq_doorbell, admin->head);
}

static void set_bus_master(int device, int on) {
  const struct vfio_region_info config = region_of(device, VFIO_PCI_CONFIG_REGION_INDEX);
  uint16_t command;
  check(pread(device, &command, sizeof command, config.offset + 4), "pread of the command register");
  command = on ? command | 6 : command & ~4;
  check(pwrite(device, &command, sizeof command, config.offset + 4), "pwrite of the command register");
}

static double random_reads(struct queue* io, int count, unsigned depth, uint32_t seed, uint32_t places) {
  uint32_t random = seed;
  int submitted = 0, completed = 0;
  unsigned free_ids[ENTRIES], available = depth;
  for (unsigned id = 0; id < depth; id++) free_ids[id] = id;

  double start = now();
  while (completed < count) {
    const int before = submitted;
    while (available > 0 && submitted < count) {
      const unsigned id = free_ids[--available];
      random ^= random << 13;
      random ^= random >> 17;
      random ^= random << 5;
      const uint64_t lba = (uint64_t)(random % places) * 8;
      put(io, &(struct command){.opcode_and_id = 2 | id << 16,
                                .nsid = 1,
                                .prp1 = iova(DATA + id),
                                .parameters = {(uint32_t)lba, (uint32_t)(lba >> 32), 7}});
      submitted++;
    }
    if (submitted != before) ring(io->sq_doorbell, io->tail);
    const unsigned had = available;
    while (take(io, &free_ids[available])) available++;
    if (available == had) continue;
    completed += available - had;
    ring(io->cq_doorbell, io->head);
  }
  return (now() - start) / count;
}

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const unsigned depth = atoi(argv[4]);
  if (depth < 1 || depth >= ENTRIES) return 2;
  const struct opened opened = open_device(argv[1], argv[2]);
  set_bus_master(opened.device, 1);
  registers = map_region(opened.device, VFIO_PCI_BAR0_REGION_INDEX);
  const size_t size = (DATA + depth) * PAGE;
  memory = allocate(size);
  map_dma(opened.container, memory, size, IOVA);

  *register32(CC) = 0;
  await_ready(0);
  *register32(AQA) = (ENTRIES - 1) << 16 | (ENTRIES - 1);
  write64(ASQ, iova(ADMIN_SQ));
  write64(ACQ, iova(ADMIN_CQ));
  // Entries of 64 and 16 bytes, pages of 4 KiB.
  *register32(CC) = 4 << 20 | 6 << 16 | 1;
  await_ready(1);

  struct queue admin = open_queue(0, ADMIN_SQ, ADMIN_CQ);
  run(&admin, (struct command){.opcode_and_id = 6, .nsid = 1, .prp1 = iova(IDENTIFY)});
  const unsigned char* namespace = page(IDENTIFY);
  const unsigned char* format = namespace + 128 + 4 * (namespace[26] & 15);
  if (format[2] != 9) fail("the namespace has no blocks of 512 bytes");
  uint64_t blocks;
  memcpy(&blocks, namespace, sizeof blocks);
  const uint32_t queue = (ENTRIES - 1) << 16 | 1;
  run(&admin, (struct command){.opcode_and_id = 5, .prp1 = iova(IO_CQ), .parameters = {queue, 1}});
  run(&admin, (struct command){.opcode_and_id = 1, .prp1 = iova(IO_SQ), .parameters = {queue, 1 << 16 | 1}});

  struct queue io = open_queue(1, IO_SQ, IO_CQ);
  printf("nvme %.1f\n", random_reads(&io, atoi(argv[3]), depth, strtoul(argv[5], NULL, 0), blocks / 8));

  *register32(CC) = 0;
  await_ready(0);
  set_bus_master(opened.device, 0);
  unmap_dma(opened.container, size, IOVA);
  return 0;
}
