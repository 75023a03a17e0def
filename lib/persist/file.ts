/** A file of the boot configuration. */
export interface PersistFile {
  /** From the root of the file tree, for instance `/etc/modprobe.d/vfio-persist.conf`. */
  readonly path: string
  readonly content: string
  /** `file`: all of it is ours; `block`: others write into it too, and these lines are ours. */
  readonly kind: 'file' | 'block'
}

/** What belongs somewhere that nothing here writes to. */
export interface ByHand {
  /** The file, or what the host is made from. */
  readonly path: string
  readonly content: string
  /** One sentence: why it is not written. */
  readonly why: string
}
