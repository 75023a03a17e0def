import { closeSync, constants, openSync } from 'node:fs'
import { binding } from '../native/load.js'

/**
 * The terminal that this program was started from, and the command's while that runs: what is typed there (Ctrl-C, Ctrl-Z)
 * goes to its foreground alone.
 */
export class Terminal {
  readonly descriptor: number
  /** As they are when this program has it. */
  readonly #ours: ArrayBuffer
  /** As the command left them when it stopped. */
  #theirs: ArrayBuffer | null = null
  #isGiven = false

  private constructor(descriptor: number) {
    this.descriptor = descriptor
    this.#ours = binding().terminalModes(descriptor)
  }

  /** `null` where this program has none. */
  static open(): Terminal | null {
    let descriptor: number
    try {
      descriptor = openSync('/dev/tty', constants.O_RDWR | constants.O_NOCTTY)
    } catch {
      return null
    }
    try {
      return new Terminal(descriptor)
    } catch {
      closeSync(descriptor)
      return null
    }
  }

  /** Is this program in its foreground? */
  get isOurs(): boolean {
    const [foreground, own] = this.#try(() => binding().terminalGroups(this.descriptor)) ?? [0, 1]
    return foreground === own
  }

  /** The command's process puts itself into the foreground. */
  isGiven(): void {
    this.#isGiven = true
  }

  /** Gives a group the foreground, with the modes that it had. */
  give(group: number): void {
    const modes = this.#theirs
    if (modes) this.#try(() => binding().setTerminalModes(this.descriptor, modes))
    this.#try(() => binding().setTerminalGroup(this.descriptor, group))
    this.#isGiven = true
  }

  /** Takes it back, if it was given, with the modes as they were: whatever the command has made of it. */
  take(): void {
    if (!this.#isGiven) return
    this.#isGiven = false
    const [, own] = this.#try(() => binding().terminalGroups(this.descriptor)) ?? [0, 0]
    if (own === 0) return
    this.#theirs = this.#try(() => binding().terminalModes(this.descriptor))
    this.#try(() => binding().setTerminalGroup(this.descriptor, own))
    this.#try(() => binding().setTerminalModes(this.descriptor, this.#ours))
  }

  close(): void {
    closeSync(this.descriptor)
  }

  /** A terminal that is gone has no foreground and no modes. */
  #try<T>(ask: () => T): T | null {
    try {
      return ask()
    } catch {
      return null
    }
  }
}
