import { assessUses } from '../assess/uses.js'
import { VfioError } from '../errors.js'
import { isAddress } from '../sysfs/address.js'
import { linkName, readText } from '../sysfs/files.js'
import { Host } from '../sysfs/host.js'
import { DEADLINE, type KernelAccess, runningKernel, withDeadline } from './kernel.js'
import type { FormerState } from './plan.js'

/** Called after each single change, of the host or of the journal, with a sentence that says which. */
export type Progress = (change: string) => void

export interface ChangeOptions {
  /** How long the kernel may take for one change, in milliseconds; default 30,000. */
  readonly deadline?: number | undefined
  readonly onChange?: Progress | undefined
  /** @internal Tests put a host of their own here. */
  readonly kernel?: KernelAccess | undefined
}

/** Changes a host one write at a time, each with a deadline, and sees whether they took hold. */
export class Changes {
  readonly kernel: KernelAccess
  readonly #sysfs: string
  readonly #deadline: number
  readonly #onChange: Progress
  /** What the kernel has not answered yet, by device: it may still happen at any time. */
  readonly #unanswered = new Map<string, string>()

  constructor(sysfs: string, options: ChangeOptions) {
    this.#sysfs = sysfs
    this.kernel = options.kernel ?? runningKernel
    this.#deadline = options.deadline ?? DEADLINE
    this.#onChange = options.onChange ?? (() => {})
  }

  /** A change has happened: tells who listens. */
  done(change: string): void {
    this.#onChange(change)
  }

  async write(path: string, text: string): Promise<void> {
    const what = () => {
      // Unbinding waits for whoever has the device open.
      const held = path.endsWith('/unbind') ? this.holders(text) : []
      const who = held.length > 0 ? `: ${held.join('; ')}; close it there` : ''
      return `writing ${JSON.stringify(text)} to ${path}${who}`
    }
    // An empty text would be a write of no bytes, which sysfs never sees.
    await this.#ask(this.#subjectOf(path, text), () => this.kernel.write(path, `${text}\n`), what)
    this.done(`wrote ${JSON.stringify(text)} to ${path}`)
  }

  async load(modprobe: string, module: string): Promise<void> {
    await this.#ask(
      module,
      () => this.kernel.load(modprobe, module),
      () => `loading ${module}`,
    )
    this.done(`loaded ${module}`)
  }

  async reset(address: string, kind: 'function' | 'hot'): Promise<void> {
    await this.#ask(
      address,
      () => this.kernel.reset(address, kind),
      () => `resetting ${address}`,
    )
    this.done(`reset ${address}`)
  }

  /** Asks the kernel, unless it still owes an answer on the same: each call that hangs takes a thread with it. */
  async #ask(subject: string, work: () => Promise<void>, what: () => string): Promise<void> {
    this.expectAnswered(subject)
    const answer = work()
    await withDeadline(answer, this.#deadline, () => {
      const sentence = what()
      const answered = () => this.#unanswered.delete(subject)
      this.#unanswered.set(subject, sentence)
      answer.then(answered, answered)
      return sentence
    })
  }

  /**
   * What timed out may still happen: how such a device stands is not known.
   * @throws VfioError `ERR_VFIO_TIMEOUT`
   */
  expectAnswered(subject: string): void {
    const asked = this.#unanswered.get(subject)
    if (asked === undefined) return
    throw new VfioError(
      'ERR_VFIO_TIMEOUT',
      `${subject} stays as it is, since the kernel is still busy ${asked}`,
    )
  }

  /** The device that a write is about, else the file. */
  #subjectOf(path: string, text: string): string {
    return /\/devices\/([^/]+)\//.exec(path)?.[1] ?? (isAddress(text) ? text : path)
  }

  /** Why a device whose group is open cannot be unbound, with who it is as far as that can be seen. */
  openSentence(address: string, group: number): string {
    const who = this.holders(address).join('; ') || `group ${group} is open in a program`
    return `${address} is open, and unbinding it would hang: ${who}; close it there first`
  }

  /** Who has a device open through VFIO, a sentence each, as far as it can be seen. */
  holders(address: string): string[] {
    try {
      const seen = new Host(this.#sysfs === '/sys' ? {} : { sysfs: this.#sysfs }).snapshot()
      const uses = assessUses(seen, address)
      return uses.filter(({ kind }) => kind === 'vfio').map(({ what }) => what)
    } catch {
      // It is only ever asked to say more about an error, and must not take its place.
      return []
    }
  }

  device(address: string): string {
    return `${this.#sysfs}/bus/pci/devices/${address}`
  }

  bus(file: string): string {
    return `${this.#sysfs}/bus/pci/${file}`
  }

  /** How a device stands now. */
  state(address: string): FormerState {
    const override = readText(`${this.device(address)}/driver_override`)
    return {
      driver: linkName(`${this.device(address)}/driver`),
      override: override === null || override === '' || override === '(null)' ? null : override,
    }
  }

  /** Writing to `drivers_probe` succeeds whatever happens: the link has the truth. */
  expectDriver(address: string, driver: string | null): void {
    const now = this.state(address).driver
    if (now === driver) return
    throw new VfioError(
      'ERR_VFIO_NOT_BOUND',
      driver === null
        ? `${address} is still bound to ${now}, although the kernel took the unbinding`
        : `${address} is ${now === null ? 'without a driver' : `bound to ${now}`}, and not bound to ${driver}: the kernel's log says why ${driver} refused it`,
    )
  }
}
