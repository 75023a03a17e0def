import { VfioError } from '../errors.js'
import type { NativeHandle } from '../native/binding.js'
import type { VfioContainer } from './container.js'
import type { VfioDevice } from './device.js'
import type { VfioGroup } from './group.js'
import type { Handle } from './handle.js'

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

/** What errors call it, and the number by which the other thread takes it. */
export interface Offered {
  readonly name: string
  readonly offer: number
}

/** Gives an opened device to another thread. */
export async function handOver({ container, group, device }: OpenParts): Promise<HandedDevice> {
  for (const { handle } of [device, group, container]) if (handle.closed) throw handle.closedError()
  const busy = whatIsLeft({ container, group, device })
  if (busy) {
    throw new VfioError('ERR_VFIO_IN_USE', `${device.address} cannot be handed over while ${busy}`)
  }
  const ofDevice = await surrender(device.handle)
  const ofGroup = await surrender(group.handle)
  return {
    address: device.address,
    container: await surrender(container.handle),
    group: ofGroup,
    device: ofDevice,
  }
}

const surrender = async (handle: Handle<NativeHandle>): Promise<Offered> => ({
  name: handle.name,
  offer: await handle.surrender(),
})

/** What belongs to this thread alone, and would be lost. */
function whatIsLeft({ container, group, device }: OpenParts): string | null {
  if (device.handle.hasEnabledIrqs) return 'an interrupt is enabled: disable() it first'
  if (container.handle.mapped.size > 0) return 'memory is mapped for it: unmapAll() first'
  if (group.handle.dependents.size > 1) return 'another device of its group is open: close that first'
  if (container.handle.dependents.size > 1) return 'another group is in its container: close that first'
  return null
}
