/** What went wrong between this driver and a controller: one sentence. */
export class NvmeError extends Error {
  override readonly name = 'NvmeError'
}

/** Status codes by type and code (NVM Express Base Specification 2.0, 3.3.3.2.1): the type is in bits 8 to 10. */
const STATUS: Record<number, string> = {
  0x001: 'it does not know the command',
  0x002: 'a field of the command is not valid',
  0x004: 'the data could not be transferred',
  0x005: 'it lost power',
  0x006: 'it failed inside',
  0x007: 'the command was aborted',
  0x008: 'the command was aborted with its queue',
  0x00b: 'there is no such namespace, or not in this format',
  0x013: 'an address of the data has a wrong offset',
  0x01c: 'its sanitize operation failed',
  0x01d: 'it is being sanitized',
  0x020: 'the namespace is write protected',
  0x080: 'the blocks are beyond the end of the namespace',
  0x081: 'the namespace is full',
  0x082: 'the namespace is not ready',
  0x083: 'another host has reserved the namespace',
  0x084: 'the namespace is being formatted',
  0x100: 'there is no such completion queue',
  0x101: 'the queue has a wrong number',
  0x102: 'the queue has a wrong size',
  0x108: 'there is no such interrupt vector',
  0x182: 'the namespace can only be read',
  0x280: 'the medium could not be written',
  0x281: 'the medium could not be read',
  0x282: 'the guard of the data does not fit',
  0x286: 'access was denied',
}

/** `status` is bits 17 to 31 of the last dword of a completion: code, type, and what to do about it. */
export function statusError(what: string, status: number): NvmeError {
  const code = status & 0x7ff
  const meaning = STATUS[code] ?? 'for a reason that this program has no words for'
  return new NvmeError(`${what} failed: ${meaning} (status 0x${code.toString(16).padStart(3, '0')})`)
}
