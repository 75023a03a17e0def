import { assessUses } from '../assess/uses.js'
import { VfioError } from '../errors.js'
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
    const what = () => `writing ${JSON.stringify(text)} to ${path}${this.#holders(path, text)}`
    // An empty text would be a write of no bytes, which sysfs never sees.
    await withDeadline(this.kernel.write(path, `${text}\n`), this.#deadline, what)
    this.done(`wrote ${JSON.stringify(text)} to ${path}`)
  }

  /** Unbinding waits for whoever has the device open: names them. */
  #holders(path: string, address: string): string {
    if (!path.endsWith('/unbind')) return ''
    const uses = assessUses(
      new Host(this.#sysfs === '/sys' ? {} : { sysfs: this.#sysfs }).snapshot(),
      address,
    )
    const held = uses.filter(({ kind }) => kind === 'vfio').map(({ what }) => what)
    return held.length > 0 ? `: ${held.join('; ')}; close it there` : ''
  }

  async load(modprobe: string, module: string): Promise<void> {
    await withDeadline(this.kernel.load(modprobe, module), this.#deadline, () => `loading ${module}`)
    this.done(`loaded ${module}`)
  }

  async reset(address: string, kind: 'function' | 'hot'): Promise<void> {
    await withDeadline(this.kernel.reset(address, kind), this.#deadline, () => `resetting ${address}`)
    this.done(`reset ${address}`)
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
