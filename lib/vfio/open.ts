import { assess } from '../assess/assessment.js'
import { VfioError, VfioSystemError } from '../errors.js'
import { keepAlive } from '../native/alive.js'
import { type CallSite, callSite } from '../native/translate.js'
import { readUuid } from '../sysfs/address.js'
import { isWithVfio, type PciDevice } from '../sysfs/devices.js'
import { Host, NONE } from '../sysfs/host.js'
import type { MediatedDevice } from '../sysfs/mediated.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { badArgument, checkOptions, show } from './arguments.js'
import { noNode, openOnto, type VfioDevice } from './device/device.js'
import { type GroupParts, type HandedDevice, handOver, type IommufdParts, takeOver } from './hand-over.js'
import type { VfioObject } from './handle.js'
import { type Ioas, Iommufd } from './iommu/iommufd.js'
import type { DmaSpace } from './iommu/space.js'
import { openInGroup, VfioContainer, VfioGroup } from './iommu/type1.js'

/** What a device is opened and its memory is mapped with: its own node and an iommufd, or its group and a container. */
export type Backend = 'iommufd' | 'group'

/** What an opened device has over either backend. Closing it closes the device, and then what it took to open it. */
export interface Opened {
  readonly device: VfioDevice
  /** The memory that it may use. */
  readonly dma: DmaSpace
  close(): Promise<void>
  /**
   * Leaves the open device to another thread of this process, which takes it with {@link receiveDevice}; here all of it
   * is closed from then on. Waits for the calls that run or wait. What is handed over stays open until somebody receives
   * it and closes it, or the process ends; whoever has the value can do that, in this thread too.
   * @throws VfioError `ERR_VFIO_IN_USE` while an interrupt is enabled, memory is mapped, or something else was opened
   * from the device, its group or container, or its iommufd; `ERR_VFIO_CLOSED` where a part of it is closed, or was while this waited.
   * Nothing has changed then
   */
  handOver(): Promise<HandedDevice>
  [Symbol.asyncDispose](): Promise<void>
}

export interface OpenedByGroup extends GroupParts, Opened {}
export interface OpenedByIommufd extends IommufdParts, Opened {}

/** A device with all that it took to open it; `backend` says what that is. */
export type OpenedDevice = OpenedByGroup | OpenedByIommufd

/** Several devices in one address space. Closing it closes them, and then what it took to open them. */
export interface OpenedDevices {
  readonly backend: Backend
  /** In the order of the addresses. */
  readonly devices: readonly VfioDevice[]
  /** The memory that all of them may use. */
  readonly dma: DmaSpace
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

export interface OpenOptions {
  /**
   * `'auto'`, also where it is left out, takes iommufd where `/dev/iommu` and the device's own node are there and may be opened,
   * else the group; also where the kernel takes a `vfToken` by the group alone (before Linux 6.18), and where devices may forge
   * interrupts and that is accepted for groups alone (`vfio_iommu_type1.allow_unsafe_interrupts`).
   */
  readonly backend?: Backend | 'auto' | undefined
  /** A look at the host that has the device; left out: a new one at this host. */
  readonly seen?: Snapshot | undefined
  /** Aborts the wait: the promise rejects at once. What was opened closes by itself, after a call that still runs. */
  readonly signal?: AbortSignal | undefined
  /** The UUID that the owner of the physical function has set: a virtual function of one bound to vfio-pci wants it. */
  readonly vfToken?: string | undefined
  /** Called with each open group before it joins a container: the moment to ask for its status. By iommufd there is none. */
  readonly onGroup?: ((group: VfioGroup) => void) | undefined
}

type With<B extends Backend> = OpenOptions & { readonly backend: B }

/**
 * Opens a device of this host by its address, a mediated device by its UUID. By its group: container, group, IOMMU and device, in the order that the kernel
 * wants. By iommufd: that, its address space, and the device, which is attached to it. **Opening resets it.**
 * @throws VfioError `ERR_VFIO_NO_DEVICE`, `ERR_VFIO_NO_GROUP` where it is in no group
 * @throws VfioSystemError what the kernel answers, `EACCES` where a virtual function wants another `vfToken`; nothing
 * stays open then
 */
export function openDevice(address: string, options: With<'group'>): Promise<OpenedByGroup>
export function openDevice(address: string, options: With<'iommufd'>): Promise<OpenedByIommufd>
export function openDevice(address: string, options?: OpenOptions): Promise<OpenedDevice>
export async function openDevice(address: string, options: OpenOptions = {}): Promise<OpenedDevice> {
  const parts = await openParts([address], options, callSite(openDevice))
  const device = parts.devices[0] as VfioDevice
  // Spelled out: what is copied from another object is looked up by name each time.
  if (parts.backend === 'iommufd') {
    const { backend, iommufd, ioas } = parts
    return whole({ backend, device, iommufd, ioas })
  }
  const { backend, container, groups } = parts
  return whole({ backend, device, container, group: groups[0] as VfioGroup })
}

/**
 * Opens several devices into one address space: what is mapped in `dma` all of them may use. **Opening resets them.**
 * @throws as {@link openDevice}; nothing stays open then
 */
export async function openDevices(
  addresses: readonly string[],
  options: OpenOptions = {},
): Promise<OpenedDevices> {
  if (!Array.isArray(addresses) || addresses.length === 0)
    throw badArgument(`addresses must be an array with at least one, not ${show(addresses)}`)
  return together(await openParts(addresses, options, callSite(openDevices)))
}

/** Several devices with what they were opened with. */
export function together(parts: Parts): OpenedDevices {
  const { backend, devices } = parts
  const close = () => keepAlive(releaseAll(objectsOf(parts)))
  return { backend, devices, dma: spaceOf(parts), close, [Symbol.asyncDispose]: close }
}

/** What several devices were opened with. */
type Parts = ByGroup | ByIommufd
interface ByGroup {
  readonly backend: 'group'
  readonly devices: readonly VfioDevice[]
  readonly container: VfioContainer
  readonly groups: readonly VfioGroup[]
}
interface ByIommufd {
  readonly backend: 'iommufd'
  readonly devices: readonly VfioDevice[]
  readonly iommufd: Iommufd
  readonly ioas: Ioas
}

const spaceOf = (
  parts: { backend: 'group'; container: VfioContainer } | { backend: 'iommufd'; ioas: Ioas },
) => (parts.backend === 'group' ? parts.container.dma : parts.ioas.dma)

/** In the order in which they close. */
const objectsOf = (parts: Parts): readonly VfioObject[] =>
  parts.backend === 'group'
    ? [...parts.groups, parts.container]
    : [...parts.devices, parts.ioas, parts.iommufd]

/** The node does not exist, or this user or container may not open it. */
const CLOSED_TO_US: ReadonlySet<string> = new Set(['ENOENT', 'EACCES', 'EPERM', 'ENODEV', 'ENXIO'])

/** `site` is where the program asked for it: taken once, because that takes long. */
async function openParts(addresses: readonly string[], options: OpenOptions, site: CallSite): Promise<Parts> {
  const { seen = new Host().look({ around: [...addresses], overrides: NONE }), backend = 'auto' } =
    checkOptions(options)
  const devices = addresses.map((address) => chosen(seen, address))
  const twice = devices.find(({ name }, i) => devices.findIndex((device) => device.name === name) !== i)
  if (twice) throw badArgument(`${twice.name} is named twice`)
  for (const device of devices) checkGroup(seen, device, backend)
  if (backend === 'group') return byGroup(seen, devices, options, site)
  if (backend === 'iommufd') return byIommufd(devices, options, site)
  if (backend !== 'auto')
    throw badArgument(`options.backend must be 'auto', 'iommufd' or 'group', not ${show(backend)}`)
  if (devices.some(({ group }) => group === null)) return byIommufd(devices, options, site)
  // Those without an IOMMU have groups on all kernels that have the mode.
  const mayBeBoth = devices.every(
    ({ vfioDevice, group }) => vfioDevice !== null && group !== null && !seen.group(group).noIommu,
  )
  if (!mayBeBoth) return byGroup(seen, devices, options, site)
  try {
    return await byIommufd(devices, options, site)
  } catch (error) {
    if (!(error instanceof VfioSystemError)) throw error
    const isClosedToUs = error.syscall === 'open' && CLOSED_TO_US.has(error.code)
    const isRefused = (code: string) => error.request === 'VFIO_DEVICE_BIND_IOMMUFD' && error.code === code
    // Before Linux 6.18 a token goes by the group alone.
    const takesNoToken = options.vfToken !== undefined && isRefused('EINVAL')
    if (!isClosedToUs && !takesNoToken && !(isRefused('EPERM') && acceptsForGroupsAlone(seen))) throw error
    return byGroup(seen, devices, options, site)
  }
}

/** Each way has a parameter of its own for devices that may forge interrupts. */
function acceptsForGroupsAlone({ host }: Snapshot): boolean {
  return host.allowUnsafeInterrupts === true && host.iommufdUnsafeInterrupts === false
}

/** What it takes to open a device, be it a function or a mediated one. */
interface Openable {
  readonly name: string
  readonly group: number | null
  readonly vfioDevice: string | null
  readonly isMediated: boolean
}

function chosen(seen: Snapshot, text: string): Openable {
  const uuid = typeof text === 'string' ? readUuid(text) : null
  return openable(uuid === null ? seen.device(text) : seen.mediatedDevice(uuid))
}

const openable = (device: PciDevice | MediatedDevice): Openable => ({
  name: 'uuid' in device ? device.uuid : device.address,
  group: device.group,
  vfioDevice: device.vfioDevice,
  isMediated: 'uuid' in device,
})

function checkGroup(
  seen: Snapshot,
  { name: address, group, isMediated, vfioDevice }: Openable,
  backend: unknown,
): void {
  if (group !== null) return
  // A VFIO without groups makes none for it.
  if (isMediated && vfioDevice !== null && backend !== 'group') return
  const { verdict, reason } = assess(seen, address)
  if (isMediated) throw new VfioError('ERR_VFIO_NO_GROUP', reason)
  throw new VfioError(
    'ERR_VFIO_NO_GROUP',
    verdict === 'blocked'
      ? `${address} is in no IOMMU group, so VFIO cannot open it: "vfio doctor" tells whether the IOMMU is on`
      : `${address} is in no group until it is bound to VFIO ("vfio bind ${address}"): ${reason}`,
  )
}

async function byGroup(
  seen: Snapshot,
  devices: readonly Openable[],
  options: OpenOptions,
  site: CallSite,
): Promise<ByGroup> {
  const container = VfioContainer.open()
  const groups = new Map<number, VfioGroup>()
  try {
    let noIommu = false
    for (const { group } of devices) {
      if (group === null || groups.has(group)) continue
      noIommu = seen.group(group).noIommu
      const opened = openGroup(group, noIommu)
      groups.set(group, opened)
      options.onGroup?.(opened)
      opened.setContainer(container)
    }
    setBestIommu(container, noIommu)
    const opened = await Promise.all(
      devices.map(({ name, group }) =>
        openInGroup(groups.get(group ?? -1) as VfioGroup, name, options, site),
      ),
    )
    return { backend: 'group', devices: opened, container, groups: [...groups.values()] }
  } catch (error) {
    // What was wrong first is what the caller has to know.
    await closeAfter([...groups.values(), container], options.signal).catch(() => {})
    throw error
  }
}

async function byIommufd(
  devices: readonly Openable[],
  options: OpenOptions,
  site: CallSite,
): Promise<ByIommufd> {
  const iommufd = Iommufd.open()
  const { vfToken, signal } = options
  // A promise whatever is wrong: those of other devices would have nobody who waits for them.
  const open = async (onto: Ioas | null, device: Openable) =>
    openOnto(onto, device.name, { iommufd, path: nodePath(device), vfToken, signal }, site)
  try {
    const ioas = iommufd.allocateIoas()
    const [only] = devices
    if (only && devices.length === 1)
      return { backend: 'iommufd', devices: [await open(ioas, only)], iommufd, ioas }
    // None is attached before all are bound, which resets them: meanwhile the kernel attaches nothing of their groups.
    const opened = await Promise.all(devices.map((device) => open(null, device)))
    for (const device of opened) await device.attach(ioas, options)
    return { backend: 'iommufd', devices: opened, iommufd, ioas }
  } catch (error) {
    await closeAfter([iommufd], options.signal).catch(() => {})
    throw error
  }
}

/** The node of a device, as it was seen. */
export const nodeOf = (device: PciDevice): string => nodePath(openable(device))

function nodePath({ name, vfioDevice }: Openable): string {
  if (vfioDevice !== null) return `/dev/vfio/devices/${vfioDevice}`
  throw noNode(name)
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
    await closeAfter(partsOf(opened), options.signal)
  }
}

/**
 * Closes what a step has opened, in this order. Waits for that as long as nobody aborts the step: a call may still run, or
 * the close itself take long. It goes on by itself then.
 */
export function closeAfter(objects: readonly VfioObject[], signal: AbortSignal | undefined): Promise<void> {
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

const partsOf = (parts: GroupParts | IommufdParts): readonly VfioObject[] =>
  parts.backend === 'group' ? [parts.group, parts.container] : [parts.device, parts.ioas, parts.iommufd]

function whole(parts: GroupParts | IommufdParts): OpenedDevice {
  const close = () => keepAlive(releaseAll(partsOf(parts)))
  const leave = () => keepAlive(handOver(parts))
  const dma = spaceOf(parts)
  if (parts.backend === 'group') {
    const { backend, device, container, group } = parts
    return { backend, device, container, group, dma, close, handOver: leave, [Symbol.asyncDispose]: close }
  }
  const { backend, device, iommufd, ioas } = parts
  return { backend, device, iommufd, ioas, dma, close, handOver: leave, [Symbol.asyncDispose]: close }
}

/** One after the other, each of them whatever became of those before. */
async function releaseAll([first, ...others]: readonly VfioObject[]): Promise<void> {
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

function setBestIommu(container: VfioContainer, noIommu: boolean): void {
  try {
    container.setIommu(noIommu ? 'noiommu' : 'type1v2')
  } catch (error) {
    // The one before it, which kernels have that have not this.
    if (noIommu || container.checkExtension('type1v2') || !container.checkExtension('type1')) throw error
    container.setIommu('type1')
  }
}

/** Is a device bound to VFIO on the host that was seen? */
export const isBound = (seen: Snapshot, address: string) => isWithVfio(seen.device(address))
