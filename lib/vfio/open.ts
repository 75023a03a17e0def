import { assess } from '../assess/assessment.js'
import { VfioError } from '../errors.js'
import { keepAlive } from '../native/alive.js'
import { isWithVfio } from '../sysfs/devices.js'
import { Host, NONE } from '../sysfs/host.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { checkOptions } from './arguments.js'
import type { VfioDevice } from './device/device.js'
import { type HandedDevice, handOver, type OpenParts, takeOver } from './hand-over.js'
import type { DmaSpace } from './iommu/space.js'
import { type ExtensionName, VfioContainer, VfioGroup } from './iommu/type1.js'

/** A device with all that it took to open it. Closing it closes the device, then its group, then the container. */
export interface OpenedDevice {
  readonly container: VfioContainer
  readonly group: VfioGroup
  readonly device: VfioDevice
  /** The memory that it may use. */
  readonly dma: DmaSpace
  close(): Promise<void>
  /**
   * Leaves the open device to another thread of this process, which takes it with {@link receiveDevice}; here all of it
   * is closed from then on. Waits for the calls that run or wait. What is handed over stays open until somebody receives
   * it and closes it, or the process ends; whoever has the value can do that, in this thread too.
   * @throws VfioError `ERR_VFIO_IN_USE` while an interrupt is enabled, memory is mapped, or something else was opened
   * from the device, its group or container; `ERR_VFIO_CLOSED` where a part of it is closed, or was while this waited.
   * Nothing has changed then
   */
  handOver(): Promise<HandedDevice>
  [Symbol.asyncDispose](): Promise<void>
}

export interface OpenOptions {
  /** A look at the host that has the device; left out: a new one at this host. */
  readonly seen?: Snapshot | undefined
  /** Aborts the wait: the promise rejects at once. What was opened closes by itself, after a call that still runs. */
  readonly signal?: AbortSignal | undefined
  /** The UUID that the owner of the physical function has set: a virtual function of one bound to vfio-pci wants it. */
  readonly vfToken?: string | undefined
  /** Called with the open group before it joins a container: the moment to ask for its status. */
  readonly onGroup?: ((group: VfioGroup) => void) | undefined
}

/**
 * Opens a device of this host by its address: container, group, IOMMU and device, in the order that the kernel wants. **Opening resets it.**
 * @throws VfioError `ERR_VFIO_NO_DEVICE`, `ERR_VFIO_NO_GROUP` where it is in no group
 * @throws VfioSystemError what the kernel answers, `EACCES` where a virtual function wants another `vfToken`; nothing
 * stays open then
 */
export async function openDevice(address: string, options: OpenOptions = {}): Promise<OpenedDevice> {
  const { seen = new Host().look({ around: [address], overrides: NONE }), signal } = checkOptions(options)
  const device = seen.device(address)
  if (device.group === null) {
    const { verdict, reason } = assess(seen, device.address)
    throw new VfioError(
      'ERR_VFIO_NO_GROUP',
      verdict === 'blocked'
        ? `${device.address} is in no IOMMU group, so VFIO cannot open it: "vfio doctor" tells whether the IOMMU is on`
        : `${device.address} is in no group until it is bound to VFIO ("vfio bind ${device.address}"): ${reason}`,
    )
  }
  const { noIommu } = seen.group(device.group)
  const container = VfioContainer.open()
  let group: VfioGroup | undefined
  try {
    group = openGroup(device.group, noIommu)
    options.onGroup?.(group)
    group.setContainer(container)
    container.setIommu(noIommu ? 'noiommu' : bestIommu(container))
    const opened = await group.openDevice(device.address, options)
    return whole({ container, group, device: opened })
  } catch (error) {
    // What was wrong first is what the caller has to know.
    await closeAfter(group ? [group, container] : [container], signal).catch(() => {})
    throw error
  }
}

/** Opens a device for one step, and closes it after that, as {@link closeAfter} does. */
export async function withOpenDevice<T>(
  address: string,
  options: OpenOptions,
  step: (opened: OpenedDevice) => T | Promise<T>,
): Promise<T> {
  const opened = await openDevice(address, options)
  try {
    return await step(opened)
  } finally {
    await closeAfter([opened.group, opened.container], options.signal)
  }
}

/**
 * Closes what a step has opened, in this order. Waits for that as long as nobody aborts the step: a call may still run, or
 * the close itself take long. It goes on by itself then.
 */
export function closeAfter(
  objects: readonly (VfioGroup | VfioContainer)[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const closing = releaseAll(objects)
  return keepAlive(signal ? untilAborted(closing, signal) : closing)
}

function untilAborted(work: Promise<void>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = () => resolve()
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}

/**
 * Takes over a device that a thread of this process handed over: another one, or the same, to have it back where nobody
 * came for it. All of it or nothing: what fails leaves it there for the right call.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` where it was taken already, or comes from another process
 */
export const receiveDevice = (handed: HandedDevice): OpenedDevice => whole(takeOver(handed))

function whole(parts: OpenParts): OpenedDevice {
  const close = () => keepAlive(releaseAll([parts.group, parts.container]))
  const { dma } = parts.container
  return { ...parts, dma, close, handOver: () => keepAlive(handOver(parts)), [Symbol.asyncDispose]: close }
}

/** One after the other, each of them whatever became of those before. */
async function releaseAll([first, ...others]: readonly (VfioGroup | VfioContainer)[]): Promise<void> {
  try {
    await first?.handle.release()
  } finally {
    if (others.length > 0) await releaseAll(others)
  }
}

/** Opens a group by its number; those without an IOMMU have a file of another name. */
export function openGroup(group: number, noIommu: boolean): VfioGroup {
  return VfioGroup.open(noIommu ? { path: `/dev/vfio/noiommu-${group}` } : group)
}

function bestIommu(container: VfioContainer): ExtensionName & ('type1v2' | 'type1') {
  return container.checkExtension('type1v2') ? 'type1v2' : 'type1'
}

/** Is a device bound to VFIO on the host that was seen? */
export const isBound = (seen: Snapshot, address: string) => isWithVfio(seen.device(address))
