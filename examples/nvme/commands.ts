// Commands (NVM Express Base Specification 2.0, chapters 5 and 7), as what is told apart in their 64 bytes.

/** A command, with room for all that this driver gives; the queue adds its number. Writable, so that it can be given again. */
export interface Command {
  opcode: number
  namespace: number
  /** Addresses of the data: the first page, and the second or a list of all others. */
  prp1: number
  prp2: number
  /** Command dwords 10 to 12, which each command has its own use for. */
  cdw10: number
  cdw11: number
  cdw12: number
}

const command = (opcode: number, rest: Partial<Command> = {}): Command => ({
  opcode,
  namespace: 0,
  prp1: 0,
  prp2: 0,
  cdw10: 0,
  cdw11: 0,
  cdw12: 0,
  ...rest,
})

/** What `identify` asks for (CNS). */
export const IDENTIFY = { namespace: 0, controller: 1, activeNamespaces: 2 } as const

/** The answer has 4096 bytes and begins a page. */
export const identify = (what: keyof typeof IDENTIFY, namespace: number, prp1: number) =>
  command(0x06, { namespace, prp1, cdw10: IDENTIFY[what] })

/** Asks for as many I/O queues of each direction (feature 7). */
export const setQueueCount = (count: number) =>
  command(0x09, { cdw10: 7, cdw11: ((count - 1) << 16) | (count - 1) })

const CONTIGUOUS = 1
const INTERRUPTS = 2

/** @param vector of MSI-X, or `null` for a queue that is polled */
export const createCompletionQueue = (id: number, entries: number, prp1: number, vector: number | null) =>
  command(0x05, {
    prp1,
    cdw10: ((entries - 1) << 16) | id,
    cdw11: vector === null ? CONTIGUOUS : (vector << 16) | INTERRUPTS | CONTIGUOUS,
  })

/** Of a submission queue whose completions go to the completion queue of the same number. */
export const createSubmissionQueue = (id: number, entries: number, prp1: number) =>
  command(0x01, { prp1, cdw10: ((entries - 1) << 16) | id, cdw11: (id << 16) | CONTIGUOUS })

export const deleteSubmissionQueue = (id: number) => command(0x00, { cdw10: id })
export const deleteCompletionQueue = (id: number) => command(0x04, { cdw10: id })

export const flush = (namespace: number) => command(0x00, { namespace })

const OPCODE = { write: 0x01, read: 0x02 } as const

export function transfer(
  kind: keyof typeof OPCODE,
  namespace: number,
  lba: number,
  blocks: number,
  prp1: number,
  prp2: number,
): Command {
  const made = command(OPCODE[kind], { namespace, prp1, prp2, cdw12: blocks - 1 })
  moveTo(made, lba)
  return made
}

/** Lets a transfer begin at another block. */
export function moveTo(made: Command, lba: number): void {
  made.cdw10 = lba >>> 0
  made.cdw11 = Math.floor(lba / 2 ** 32)
}
