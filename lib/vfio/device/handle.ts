import type { NativeDevice, NativeGroup } from '../../native/binding.js'
import { Handle } from '../handle.js'

/** What closes with an open device: mapped memory, interrupts, ioeventfds. */
export interface Resource {
  close(): void
  readonly isEnabled?: boolean
}

/** The state of an open device: see {@link Handle}. */
export class DeviceHandle extends Handle<NativeDevice> {
  /** What it is attached to in an iommufd, by PASID; `null` is the device itself. */
  readonly tables = new Map<number | null, { readonly table: unknown; forget(): void }>()
  readonly #resources = new Set<Resource>()

  /** Is an interrupt enabled, whose eventfds belong to this thread? */
  get hasEnabledIrqs(): boolean {
    return [...this.#resources].some(({ isEnabled }) => isEnabled === true)
  }

  /** Is it attached to that, and to nothing else? */
  isOn(table: unknown): boolean {
    return this.tables.size === 1 && this.tables.get(null)?.table === table
  }

  own(resource: Resource): void {
    this.#resources.add(resource)
  }

  owns(resource: Resource): boolean {
    return this.#resources.has(resource)
  }

  /** Closes one of them. */
  letGo(resource: Resource): void {
    if (this.#resources.delete(resource)) resource.close()
  }

  // At once, so that no register is touched while the close waits for a call that runs.
  protected override onClosing(): void {
    for (const resource of this.#resources) this.letGo(resource)
  }

  // Which detaches it.
  protected override afterClose(): void {
    for (const table of [...this.tables.values()]) table.forget()
  }

  protected override beforeSurrender(): void {
    this.afterClose()
  }
}

/** The file of a group, with which its owner may reset all that is in it. */
export abstract class GroupFile extends Handle<NativeGroup> {}

/** What the parts of an open device have of it. */
export interface DevicePart {
  readonly handle: DeviceHandle
  /** In sysfs form. */
  readonly address: string
  /** The object that the program opened: as long as one of its parts is held, so is it. */
  readonly owner: object
}
