import { resolve } from 'node:path'
import { VfioError } from '../errors.js'
import { directoryOf, isAddress, isUuid } from '../sysfs/address.js'
import { isVfioDriver, overrideOf } from '../sysfs/devices.js'
import { exists, linkName } from '../sysfs/files.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import type { FormerState } from './former.js'
import type { GroupLock } from './group-lock.js'
import { holdersOf } from './holders.js'
import { DEADLINE, type KernelAccess, kernelWith, sayingWhat, withDeadline } from './kernel.js'

/** Called after each single change, of the host or of the journal, with a sentence that says which. */
export type Progress = (change: string) => void

export interface ChangeOptions {
  /** How long the kernel may take for one change, in milliseconds; default 30,000. */
  readonly deadline?: number | undefined
  readonly onChange?: Progress | undefined
  /** Called where the kernel has taken a second for one request, with what that is: `writing "1" to …`. */
  readonly onWait?: Progress | undefined
  /** @internal Tests put a host of their own here. */
  readonly kernel?: Partial<KernelAccess> | undefined
}

/** Calls that timed out and may still take effect, by tree and device. One table for the whole process. */
const unanswered = new Map<string, string>()

/** Changes a host one write at a time, each with a deadline, and checks whether each took effect. */
export class Changes {
  readonly kernel: KernelAccess
  readonly #sysfs: string
  readonly #deadline: number
  readonly #onChange: Progress
  readonly #onWait: Progress | undefined
  readonly #lock: GroupLock
  /** Shortens the wait for the call that runs. */
  #signal: AbortSignal | undefined

  /** @param lock of the groups that are changed: a call that times out keeps it until it returns */
  constructor(sysfs: string, options: ChangeOptions, lock: GroupLock, signal?: AbortSignal) {
    // The process that writes has another working directory.
    this.#sysfs = resolve(sysfs)
    this.#lock = lock
    this.#signal = signal
    this.kernel = kernelWith(options.kernel)
    this.#deadline = options.deadline ?? DEADLINE
    this.#onChange = options.onChange ?? (() => {})
    this.#onWait = options.onWait
  }

  /** A change has happened: tells who listens. */
  done(change: string): void {
    this.#onChange(change)
  }

  /** From here on an abort is ignored: what follows has to be completed. */
  finish(): void {
    this.#signal = undefined
  }

  /** Lets the writing process end. */
  [Symbol.dispose](): void {
    this.kernel.close()
  }

  async write(given: string, text: string): Promise<void> {
    const path = resolve(given)
    const what = () => {
      // Unbinding waits for whoever has the device open.
      const who = path.endsWith('/unbind') ? this.#heldBy(text) : ''
      return `writing ${JSON.stringify(text)} to ${path}${who}`
    }
    // An empty text would be a write of no bytes, which sysfs never sees.
    await this.#ask(
      this.#subjectOf(path, text),
      () => this.kernel.write(path, `${text}\n`, this.#lock.descriptor),
      what,
    )
    this.done(`wrote ${JSON.stringify(text)} to ${path}`)
  }

  /** The text of a sysfs file whose read waits for the device lock. */
  async read(path: string): Promise<string> {
    let text = ''
    const read = async () => {
      text = await this.kernel.read(path, this.#lock.descriptor)
    }
    await this.#ask(this.#subjectOf(path, ''), read, () => `reading ${path}`)
    return text.trim()
  }

  async load(modprobe: string, module: string): Promise<void> {
    await this.#ask(
      module,
      () => this.kernel.load(modprobe, module),
      () => `loading ${module}`,
    )
    this.done(`loaded ${module}`)
  }

  async reset(address: string, kind: 'function' | 'hot', seen: Snapshot, byIommufd: boolean): Promise<void> {
    await this.#ask(
      address,
      () => this.kernel.reset(address, kind, seen, byIommufd),
      () => `resetting ${address}`,
    )
    this.done(`reset ${address}`)
  }

  /** Makes one call with a deadline; refuses while an earlier one on the same subject has not returned. */
  async #ask(subject: string, work: () => Promise<void>, what: () => string): Promise<void> {
    this.expectAnswered(subject)
    const answer = work()
    const leave = () => {
      const sentence = what()
      const key = this.#key(subject)
      const answered = () => unanswered.delete(key)
      unanswered.set(key, sentence)
      answer.then(answered, answered)
      this.kernel.leave()
      return sentence
    }
    const waited = withDeadline(answer, this.#deadline, leave, this.#signal)
    await sayingWhat(waited, this.#onWait, what)
  }

  /**
   * A call that timed out may still take effect, so the state of its device is unknown.
   * @throws VfioError `ERR_VFIO_TIMEOUT`
   */
  expectAnswered(subject: string): void {
    const asked = unanswered.get(this.#key(subject))
    if (asked === undefined) return
    throw new VfioError(
      'ERR_VFIO_TIMEOUT',
      `${subject} stays as it is, since the kernel is still busy ${asked}`,
    )
  }

  #key(subject: string): string {
    return `${this.#sysfs} ${subject}`
  }

  /** The device that a write is about, else the file. */
  #subjectOf(path: string, text: string): string {
    return /\/devices\/([^/]+)\//.exec(path)?.[1] ?? (isAddress(text) || isUuid(text) ? text : path)
  }

  /** Is it with VFIO: by the name of its driver, or by what its driver has made below it? */
  isWithVfio(address: string): boolean {
    return isVfioDriver(this.driver(address)) || exists(`${this.device(address)}/vfio-dev`)
  }

  /** The group that a device is in now: it may have come after the plan was made, or gone with its driver. */
  group(address: string): number | null {
    const name = linkName(`${this.device(address)}/iommu_group`)
    return name !== null && /^\d{1,9}$/.test(name) ? Number(name) : null
  }

  /**
   * Unbinding a device that is open blocks in the kernel until it is closed. Says who it is, as far as that can be seen.
   * @param harm what would come of it, in the sentence
   * @throws VfioError `ERR_VFIO_IN_USE`; `ERR_VFIO_BAD_NODE` where it cannot be told
   */
  refuseOpen(
    { address, group: known }: { readonly address: string; readonly group: number | null },
    harm = 'unbinding it would hang',
  ): void {
    const group = this.group(address) ?? known
    if (group === null || !this.kernel.isOpen(group)) return
    const who = holdersOf(this.#sysfs, address).join('; ') || `group ${group} is open in a program`
    throw new VfioError('ERR_VFIO_IN_USE', `${address} is open, and ${harm}: ${who}; close it there first`)
  }

  /** The end of a sentence: who keeps the kernel waiting, as far as that can be seen. */
  #heldBy(address: string): string {
    const held = holdersOf(this.#sysfs, address)
    return held.length > 0 ? `: ${held.join('; ')}; close it there` : ''
  }

  device(address: string): string {
    return directoryOf(this.#sysfs, address)
  }

  bus(file: string): string {
    return `${this.#sysfs}/bus/pci/${file}`
  }

  driver(address: string): string | null {
    return linkName(`${this.device(address)}/driver`)
  }

  /** Driver and override of a device now. Reading the override waits for the device lock, so this takes as long as a change may. */
  async state(address: string): Promise<FormerState> {
    let override: string | null = null
    const path = `${this.device(address)}/driver_override`
    const read = async () => {
      override = (await this.kernel.read(path, this.#lock.descriptor).catch(noFile)).trim()
    }
    await this.#ask(address, read, () => `reading ${path}${this.#heldBy(address)}`)
    return {
      driver: this.driver(address),
      override: overrideOf(override ?? ''),
    }
  }

  /** Writing to `drivers_probe` succeeds even where nothing binds: only the driver link tells. */
  expectDriver(address: string, driver: string | null): void {
    const now = this.driver(address)
    if (now === driver) return
    throw new VfioError(
      'ERR_VFIO_NOT_BOUND',
      driver === null
        ? `${address} is still bound to ${now}, although the kernel took the unbinding`
        : `${address} is ${now === null ? 'without a driver' : `bound to ${now}`}, and not bound to ${driver}: the kernel's log says why ${driver} refused it`,
    )
  }
}

/** A device that is gone has no override; every other failure is an error. */
function noFile(error: unknown): string {
  const { code } = error as { code?: unknown }
  if (code === 'ENOENT' || code === 'ENODEV') return ''
  throw error
}
