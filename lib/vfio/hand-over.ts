import { VfioError } from '../errors.js'
import type {
  NativeContainer,
  NativeDevice,
  NativeGroup,
  NativeHandle,
  NativeIommufd,
} from '../native/binding.js'
import { binding } from '../native/load.js'
import { call } from '../native/translate.js'
import { parseName } from '../sysfs/address.js'
import { badArgument, checkInteger, show } from './arguments.js'
import { VfioDevice } from './device/device.js'
import { DeviceHandle } from './device/handle.js'
import { type Dependent, Handle } from './handle.js'
import { acceptedIommufd, type Ioas, type Iommufd, LARGEST_ID } from './iommu/iommufd.js'
import {
  acceptedContainer,
  acceptedDevice,
  acceptedGroup,
  type VfioContainer,
  type VfioGroup,
} from './iommu/type1.js'

/** The open objects that a device needs that was opened by its group. */
export interface GroupParts {
  readonly backend: 'group'
  readonly device: VfioDevice
  readonly container: VfioContainer
  readonly group: VfioGroup
}

/** The open objects that a device needs that was opened by its own node. */
export interface IommufdParts {
  readonly backend: 'iommufd'
  readonly device: VfioDevice
  readonly iommufd: Iommufd
  /** What the device is attached to. */
  readonly ioas: Ioas
}

export type OpenParts = GroupParts | IommufdParts

/** What errors call it, and the number by which the other thread takes it: one for all of a device. */
export interface Offered {
  readonly name: string
  readonly offer: number
}

/** An open device on its way to another thread: a plain value for `postMessage()`. It can be received once. */
export type HandedDevice =
  | {
      readonly address: string
      readonly backend: 'group'
      readonly container: Offered
      readonly group: Offered
      readonly device: Offered
    }
  | {
      readonly address: string
      readonly backend: 'iommufd'
      readonly iommufd: Offered
      readonly device: Offered
      /** Their numbers in the iommufd. */
      readonly ioas: number
      readonly devid: number
    }

/** When no call runs on any of them. One that is closed meanwhile ends the wait at once, whatever runs on the others. */
function allSettled(handles: readonly Handle<NativeHandle>[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const forget = handles.map((handle) => handle.onceClosed(() => reject(handle.closedError())))
    Promise.all(handles.map((handle) => handle.settled()))
      .then(() => resolve(), reject)
      .finally(() => {
        for (const each of forget) each()
      })
  })
}

/** Gives an opened device to another thread, all of it or nothing. */
export async function handOver(parts: OpenParts): Promise<HandedDevice> {
  const { device } = parts
  const files: Handle<NativeHandle>[] =
    parts.backend === 'group'
      ? [parts.container.handle, parts.group.handle, device.handle]
      : [parts.iommufd.handle, device.handle]
  const handles = parts.backend === 'group' ? files : [...files, parts.ioas.handle]
  for (;;) {
    for (const handle of handles) if (handle.closed) throw handle.closedError()
    const left = whatIsLeft(parts)
    if (left) throw new VfioError('ERR_VFIO_IN_USE', `${device.address} cannot be handed over while ${left}`)
    // What runs may open something more.
    if (!handles.some(({ inUse }) => inUse)) break
    await allSettled(handles)
  }
  // From here to the end in one go, so that no other call comes between; what depends on something goes before it.
  for (const handle of [...handles].reverse()) handle.surrender()
  let offer: number
  try {
    offer = call(() => binding().offer(...files.map(({ raw }) => raw)))
  } catch (error) {
    for (const { raw } of [...files].reverse()) raw.closeNow()
    throw error
  }
  const offered = ({ name }: { name: string }): Offered => ({ name, offer })
  const { address } = device
  return parts.backend === 'group'
    ? {
        address,
        backend: 'group',
        container: offered(parts.container.handle),
        group: offered(parts.group.handle),
        device: offered(device.handle),
      }
    : {
        address,
        backend: 'iommufd',
        iommufd: offered(parts.iommufd.handle),
        device: offered(device.handle),
        ioas: parts.ioas.id,
        devid: device.devid ?? 0,
      }
}

/** Takes what was handed over, all of it or nothing. */
export function takeOver(handed: HandedDevice): OpenParts {
  const { address, offer, names, numbers } = checkHanded(handed)
  const natives = call(() => binding().accept(offer))
  if (numbers) {
    const [ofIommufd, ofDevice] = natives as [NativeIommufd, NativeDevice]
    const iommufd = acceptedIommufd(ofIommufd, names[0] ?? '')
    const ioas = iommufd.ioas(numbers.ioas)
    const handle = new DeviceHandle(ofDevice, names[1] ?? '', iommufd.handle)
    const device = new VfioDevice(handle, address, iommufd, numbers.devid)
    device.isOn(ioas)
    return { backend: 'iommufd', iommufd, ioas, device }
  }
  const [ofContainer, ofGroup, ofDevice] = natives as [NativeContainer, NativeGroup, NativeDevice]
  const container = acceptedContainer(ofContainer, names[0] ?? '')
  const group = acceptedGroup(ofGroup, names[1] ?? '', container)
  return {
    backend: 'group',
    container,
    group,
    device: acceptedDevice(ofDevice, names[2] ?? '', address, group),
  }
}

/** Before anything is taken. */
function checkHanded(handed: HandedDevice): {
  address: string
  offer: number
  names: string[]
  numbers: { ioas: number; devid: number } | null
} {
  if (typeof handed !== 'object' || handed === null)
    throw badArgument(`expected what handOver() gave, not ${show(handed)}`)
  const byGroup = handed.backend === 'group'
  if (!byGroup && handed.backend !== 'iommufd')
    throw badArgument(
      `expected what handOver() gave, with its backend, not ${show((handed as { backend?: unknown }).backend)}`,
    )
  const parts: Offered[] = (
    byGroup ? [handed.container, handed.group, handed.device] : [handed.iommufd, handed.device]
  ).map((part: unknown) => {
    const { name, offer } = (part ?? {}) as Partial<Record<keyof Offered, unknown>>
    if (typeof name !== 'string' || typeof offer !== 'number')
      throw badArgument(`expected what handOver() gave, without ${show(part)}`)
    return { name, offer }
  })
  const offer = parts[0]?.offer ?? 0
  if (parts.some((part) => part.offer !== offer))
    throw badArgument(
      `${byGroup ? 'container, group and device' : 'iommufd and device'} are not of one handOver()`,
    )
  return {
    address: parseName(handed.address),
    offer,
    names: parts.map(({ name }) => name),
    numbers: byGroup
      ? null
      : {
          ioas: checkInteger(handed.ioas, LARGEST_ID, 'ioas'),
          devid: checkInteger(handed.devid, LARGEST_ID, 'devid'),
        },
  }
}

const KVM_KNOWS = 'a KVM machine is told of it: remove() it from its KvmVfio first'

/** What cannot go to another thread and would be lost, with the cure. */
function whatIsLeft(parts: OpenParts): string | null {
  const { device } = parts
  if (device.handle.hasEnabledIrqs) return 'an interrupt is enabled: disable() it first'
  const [open] = device.handle.dependents
  if (open) return open instanceof Handle ? `${open.name} is open: close that first` : KVM_KNOWS
  const { mappings } = parts.backend === 'group' ? parts.container.handle : parts.ioas.handle
  if (mappings.spans.size > 0) return 'memory is mapped for it: unmapAll() first'
  if (parts.backend === 'group') {
    const others = [...parts.group.handle.dependents].filter((one: Dependent) => one !== device.handle)
    if (others.some((one) => one instanceof Handle))
      return 'another device of its group is open: close that first'
    if (others.length > 0) return KVM_KNOWS
    return parts.container.handle.dependents.size > 1
      ? 'another group is in its container: close that first'
      : null
  }
  if (parts.ioas.handle.tracks) return 'a log of the pages that it writes is on: dirty.stop() first'
  if (!device.handle.isOn(parts.ioas.handle))
    return 'it is not attached to its IOAS, or to more: attach() it to that alone'
  // The device and the IOAS, and on that the device.
  if (parts.iommufd.handle.dependents.size > 2)
    return 'another device or IOAS of its iommufd is open: close that first'
  return parts.ioas.handle.dependents.size > 1
    ? 'something else is attached to its IOAS, or was allocated from it: close that first'
    : null
}
