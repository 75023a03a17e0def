export const ENDS = ['terminate', 'exit', 'natural'] as const
export const WORKS = [
  'none',
  'reset',
  'queued',
  'open',
  'close',
  'aborted',
  'listening',
  'storm',
  'mapping',
  'memory',
  'pinning',
] as const

/** One way in which a worker comes to its end. */
export interface Cell {
  end: (typeof ENDS)[number]
  work: (typeof WORKS)[number]
  /** The main thread has loaded the addon too, and has handles open. */
  main: boolean
}
