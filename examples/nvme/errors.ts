/** What went wrong between this driver and a controller: one sentence. */
export class NvmeError extends Error {
  override readonly name = 'NvmeError'
}

/** Status codes by type and code (NVM Express Base Specification 2.0, 3.3.3.2.1): the type is in bits 8 to 10. */
const STATUS: Record<number, string> = {
  1: 'it does not know the command',
  2: 'a field of the command is not valid',
  4: 'the data could not be transferred',
  5: 'it lost power',
  6: 'it failed inside',
  7: 'the command was aborted',
  8: 'the command was aborted with its queue',
  11: 'there is no such namespace, or not in this format',
  19: 'an address of the data has a wrong offset',
  28: 'its sanitize operation failed',
  29: 'it is being sanitized',
  32: 'the namespace is write protected',
  128: 'the blocks are beyond the end of the namespace',
  129: 'the namespace is full',
  130: 'the namespace is not ready',
  131: 'another host has reserved the namespace',
  132: 'the namespace is being formatted',
  256: 'there is no such completion queue',
  257: 'the queue has a wrong number',
  258: 'the queue has a wrong size',
  264: 'there is no such interrupt vector',
  386: 'the namespace can only be read',
  640: 'the medium could not be written',
  641: 'the medium could not be read',
  642: 'the guard of the data does not fit',
  646: 'access was denied',
}

/** `status` is bits 17 to 31 of the last dword of a completion: code, type, and what to do about it. */
export function statusError(what: string, status: number): NvmeError {
  const code = status & 0x7ff
  const meaning = STATUS[code] ?? 'for a reason that this program has no words for'
  return new NvmeError(`${what} failed: ${meaning} (status 0x${code.toString(16).padStart(3, '0')})`)
}
