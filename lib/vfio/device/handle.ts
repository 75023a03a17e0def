import type { NativeDevice, NativeGroup } from '../../native/binding.js'
import { Handle } from '../handle.js'

/** What an open device takes along when it closes: mapped memory, interrupts. */
export interface Attachment {
  close(): void
  readonly isEnabled?: boolean
}

/** An open device, apart from the object that the program holds. */
export class DeviceHandle extends Handle<NativeDevice> {
  /** What it is attached to in an iommufd, by PASID; `null` is the device itself. */
  readonly tables = new Map<number | null, { readonly table: unknown; forget(): void }>()
  readonly #attachments = new Set<Attachment>()

  /** Is an interrupt enabled, whose eventfds belong to this thread? */
  get hasEnabledIrqs(): boolean {
    return [...this.#attachments].some((attachment) => attachment.isEnabled === true)
  }

  /** Is it attached to that, and to nothing else? */
  isOn(table: unknown): boolean {
    return this.tables.size === 1 && this.tables.get(null)?.table === table
  }

  attach(attachment: Attachment): void {
    this.#attachments.add(attachment)
  }

  isAttached(attachment: Attachment): boolean {
    return this.#attachments.has(attachment)
  }

  /** Closes one of them. */
  detach(attachment: Attachment): void {
    if (this.#attachments.delete(attachment)) attachment.close()
  }

  // At once, so that no register is touched while the close waits for a call that runs.
  protected override onClosing(): void {
    for (const attachment of this.#attachments) this.detach(attachment)
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
