import { isBridge } from '../assess/topology.js'
import { VfioError } from '../errors.js'
import { isUuid, readUuid } from '../sysfs/address.js'
import { isByOwnDriver, type PciDevice } from '../sysfs/devices.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { VfioDevice } from '../vfio/device/device.js'
import type { VfioGroup } from '../vfio/iommu/type1.js'
import {
  closeAfter,
  isBound,
  nodeOf,
  type OpenedDevice,
  type OpenOptions,
  openGroup,
  withOpenDevice,
} from '../vfio/open.js'

/** What a reset did. */
export interface ResetReport {
  readonly address: string
  readonly method: 'function' | 'hot'
  /** Every function that was reset, this one included. */
  readonly affected: readonly string[]
  /** How long the reset itself took, without opening the device. */
  readonly milliseconds: number
}

export interface ResetDeviceOptions {
  /** Reset the whole slot or bus (`VFIO_DEVICE_PCI_HOT_RESET`), not this function alone. */
  readonly hot?: boolean
  /** What the device is opened with: as {@link openDevice} chooses where it is left out. */
  readonly backend?: OpenOptions['backend']
  /** Aborts the wait: the promise rejects at once. A reset that has begun ends by itself, and the device closes then. */
  readonly signal?: AbortSignal | undefined
}

/**
 * Resets a device that is bound to VFIO, through VFIO; a mediated device is named by its UUID. A hot reset needs every affected function to be bound to VFIO
 * and nobody else to have its group open.
 * @throws VfioError `ERR_VFIO_NO_RESET` where the kernel knows no such reset, or a driver of its own has given it to VFIO; `ERR_VFIO_NOT_OWNED` where a hot reset
 * would hit what VFIO does not own
 * @throws VfioSystemError what the kernel answers
 */
export async function resetDevice(
  seen: Snapshot,
  address: string,
  { hot = false, backend, signal }: ResetDeviceOptions = {},
): Promise<ResetReport> {
  const uuid = typeof address === 'string' ? readUuid(address) : null
  if (uuid === null) refuseOwn(seen.device(address))
  else if (hot) {
    throw new VfioError(
      'ERR_VFIO_NO_RESET',
      `${uuid} is a mediated device and no PCI function: it has no slot or bus that a hot reset could go through; leave --hot out`,
    )
  }
  return withOpenDevice(address, { seen, backend, signal }, (opened) =>
    hot ? resetHot(seen, opened, signal) : resetFunction(opened, signal),
  )
}

function refuseOwn(device: PciDevice): void {
  if (!isByOwnDriver(device)) return
  throw new VfioError(
    'ERR_VFIO_NO_RESET',
    `${device.address} is with VFIO through its own driver ${device.driver}, which resets it for each hypervisor that opens it: nothing else should`,
  )
}

async function resetFunction(
  { device }: OpenedDevice,
  signal: AbortSignal | undefined,
): Promise<ResetReport> {
  if (!device.info().reset) {
    if (isUuid(device.address)) {
      throw new VfioError(
        'ERR_VFIO_NO_RESET',
        `${device.address} cannot be reset: its driver has no way to; a new one in its place is as good ("vfio mdev remove", "vfio mdev create")`,
      )
    }
    throw new VfioError(
      'ERR_VFIO_NO_RESET',
      `${device.address} cannot be reset by itself: "vfio check ${device.address}" tells why, and --hot resets all of its slot or bus`,
    )
  }
  const milliseconds = await timed(() => device.reset({ signal }))
  return { address: device.address, method: 'function', affected: [device.address], milliseconds }
}

async function resetHot(
  seen: Snapshot,
  opened: OpenedDevice,
  signal: AbortSignal | undefined,
): Promise<ResetReport> {
  const { device } = opened
  const { devices } = device.hotResetInfo()
  const foreign = devices.filter(
    (affected) => !seen.has(affected.address) || !isBound(seen, affected.address),
  )
  if (foreign.length > 0) {
    const names = foreign.map(({ address }) => address)
    throw new VfioError(
      'ERR_VFIO_NOT_OWNED',
      `a hot reset of ${device.address} would also reset ${names.join(', ')}, which VFIO does not own: ${cureFor(seen, names)}`,
    )
  }
  const own = seen.device(device.address).group
  // A member of each group makes whoever has it open own all of the group.
  const members = new Map(devices.map(({ address }) => [seen.device(address).group, address]))
  const groups: VfioGroup[] = []
  const others: VfioDevice[] = []
  try {
    for (const [number, address] of members) {
      if (number === own || number === null) continue
      if (opened.backend === 'group') {
        const other = openGroup(number, seen.group(number).noIommu)
        groups.push(other)
        other.setContainer(opened.container)
      } else {
        const path = nodeOf(seen.device(address))
        others.push(await VfioDevice.openCdev(address, { iommufd: opened.iommufd, path, signal }))
      }
    }
    const owned = opened.backend === 'group' ? [opened.group, ...groups] : []
    const milliseconds = await timed(() => device.hotReset(owned, { signal }))
    const affected = devices.map(({ address }) => address)
    return { address: device.address, method: 'hot', affected, milliseconds }
  } finally {
    await closeAfter([...groups, ...others], signal)
  }
}

function cureFor(seen: Snapshot, addresses: readonly string[]): string {
  const bridges = addresses.filter((address) => seen.has(address) && isBridge(seen.device(address)))
  return bridges.length > 0
    ? `${bridges.join(', ')} can never be VFIO's, being a bridge`
    : 'bind all of them to vfio-pci first'
}

async function timed(work: () => Promise<void>): Promise<number> {
  const start = performance.now()
  await work()
  return Math.round((performance.now() - start) * 10) / 10
}
