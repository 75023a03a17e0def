/** Something about the machine or the request that a person can put right; shown as one line, without a stack. */
export class LabError extends Error {
  override name = 'LabError'
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
