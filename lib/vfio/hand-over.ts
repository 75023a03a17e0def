import { VfioError } from '../errors.js'
import { binding } from '../native/load.js'
import { parseAddress } from '../sysfs/address.js'
import { badArgument, show } from './arguments.js'
import type { VfioDevice } from './device/device.js'
import {
  acceptedContainer,
  acceptedDevice,
  acceptedGroup,
  type VfioContainer,
  type VfioGroup,
} from './iommu/type1.js'
import { call } from './translate.js'

/** The open objects that a device needs. */
export interface OpenParts {
  readonly container: VfioContainer
  readonly group: VfioGroup
  readonly device: VfioDevice
}

/** An open device on its way to another thread: a plain value for `postMessage()`. It can be received once. */
export interface HandedDevice {
  readonly address: string
  readonly container: Offered
  readonly group: Offered
  readonly device: Offered
}

/** What errors call it, and the number by which the other thread takes it: one for all three. */
export interface Offered {
  readonly name: string
  readonly offer: number
}

/** Gives an opened device to another thread, all of it or nothing. */
export async function handOver({ container, group, device }: OpenParts): Promise<HandedDevice> {
  const handles = [device.handle, group.handle, container.handle]
  for (;;) {
    for (const handle of handles) if (handle.closed) throw handle.closedError()
    const left = whatIsLeft({ container, group, device })
    if (left) throw new VfioError('ERR_VFIO_IN_USE', `${device.address} cannot be handed over while ${left}`)
    // What runs may open something more.
    if (!handles.some(({ inUse }) => inUse)) break
    await Promise.all(handles.map((handle) => handle.settled()))
  }
  // From here to the end in one go, so that no other call comes between.
  for (const handle of handles) handle.surrender()
  let offer: number
  try {
    offer = call(() => binding().offer(container.handle.raw, group.handle.raw, device.handle.raw))
  } catch (error) {
    for (const { raw } of handles) raw.closeNow()
    throw error
  }
  const offered = ({ name }: { name: string }): Offered => ({ name, offer })
  return {
    address: device.address,
    container: offered(container.handle),
    group: offered(group.handle),
    device: offered(device.handle),
  }
}

/** Takes what was handed over, all of it or nothing. */
export function takeOver(handed: HandedDevice): OpenParts {
  const { address, offer, names } = checkHanded(handed)
  const [ofContainer, ofGroup, ofDevice] = call(() => binding().accept(offer))
  const container = acceptedContainer(ofContainer, names[0])
  const group = acceptedGroup(ofGroup, names[1], container)
  return { container, group, device: acceptedDevice(ofDevice, names[2], address, group) }
}

/** Before anything is taken. */
function checkHanded(handed: HandedDevice): {
  address: string
  offer: number
  names: [string, string, string]
} {
  if (typeof handed !== 'object' || handed === null)
    throw badArgument(`expected what handOver() gave, not ${show(handed)}`)
  const [container, group, device] = [handed.container, handed.group, handed.device].map((part: unknown) => {
    const { name, offer } = (part ?? {}) as Partial<Record<keyof Offered, unknown>>
    if (typeof name !== 'string' || typeof offer !== 'number')
      throw badArgument(`expected what handOver() gave, without ${show(part)}`)
    return { name, offer }
  }) as [Offered, Offered, Offered]
  const { offer } = device
  if (container.offer !== offer || group.offer !== offer)
    throw badArgument('container, group and device are not of one handOver()')
  return {
    address: parseAddress(handed.address),
    offer,
    names: [container.name, group.name, device.name],
  }
}

/** What belongs to this thread alone, and would be lost. */
function whatIsLeft({ container, group, device }: OpenParts): string | null {
  if (device.handle.hasEnabledIrqs) return 'an interrupt is enabled: disable() it first'
  if (device.handle.dependents.size > 0) return 'its migration data is open: close that first'
  if (container.handle.mappings.spans.size > 0) return 'memory is mapped for it: unmapAll() first'
  if (group.handle.dependents.size > 1) return 'another device of its group is open: close that first'
  if (container.handle.dependents.size > 1) return 'another group is in its container: close that first'
  return null
}
