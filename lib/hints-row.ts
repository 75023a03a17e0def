/** What one errno means for one request, and what to do. */
export interface Hint {
  /** The ioctl's name, or what was opened or written: `container`, `group`, `cdev`, `bind`, `new_id`. `*`: any. */
  readonly request: string
  readonly code: string
  readonly hint: string
}

export const row = (request: string, code: string, hint: string): Hint => ({ request, code, hint })
