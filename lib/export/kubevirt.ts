import { isBridge } from '../assess/topology.js'
import { VfioError } from '../errors.js'
import { compareAddresses, isUuid } from '../sysfs/address.js'
import type { PciDevice } from '../sysfs/devices.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { checkResourceName } from './resource-name.js'
import { exportSlots, obstacles } from './set.js'

export interface KubevirtOptions {
  /** The resource that the device plugin offers the devices as: `example.com/gpu`. */
  readonly resource: string | undefined
}

/** One entry of `pciHostDevices`. */
export interface PciHostDevice {
  /** Vendor and device, in capital letters as KubeVirt reads them of the kernel: `10DE:2204`. */
  readonly pciVendorSelector: string
  readonly resourceName: string
  /** The device plugin offers them, and not KubeVirt. */
  readonly externalResourceProvider: true
}

/** The part of KubeVirt's configuration that lets guests have devices. */
export interface KubevirtExport {
  readonly format: 'kubevirt'
  /** Those that guests see: of each group the first, and further ones stay beside it. */
  readonly devices: readonly { readonly address: string; readonly pciVendorSelector: string }[]
  /** What belongs into `spec.configuration` of the resource `KubeVirt`. */
  readonly permittedHostDevices: { readonly pciHostDevices: readonly PciHostDevice[] }
  /** The same as YAML. */
  readonly text: string
  /** What has to happen before, a sentence each. */
  readonly notes: readonly string[]
  /** Why VFIO cannot give them to a guest, a sentence each; all of them are among the notes. */
  readonly blockers: readonly string[]
}

/**
 * `permittedHostDevices` of KubeVirt for devices that a device plugin offers: an entry for each kind of device. A guest
 * gets one function of a group, since KubeVirt takes one address for each device that it is given.
 * Source: `PciHostDevice` of `kubevirt.io/api/core/v1`.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`, `ERR_VFIO_BAD_ARGUMENT`
 */
export function exportKubevirt(
  seen: Snapshot,
  addresses: readonly string[],
  { resource }: KubevirtOptions,
): KubevirtExport {
  if (typeof resource !== 'string') {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      'KubeVirt knows devices by the name of their resource: give the one that the device plugin offers them as (--resource), like example.com/gpu',
    )
  }
  checkResourceName(resource)
  const slots = exportSlots(seen, addresses, { apart: true })
  const named = slots.flatMap(({ functions }) => functions).map(({ address }) => address)
  const mediated = named.filter(isUuid)
  if (mediated.length > 0) {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      `${mediated.join(', ')}: mediated devices are offered by KubeVirt itself, by the names of their types under mediatedDevices: leave them out here`,
    )
  }
  const devices = named.map((address) => seen.device(address))
  const primaries = devices.filter((device) => device === primaryOf(devices, device))
  const { notes, blockers } = obstacles(seen, slots)
  const selectors = [...new Set(primaries.map(selectorOf))]
  const pciHostDevices = selectors.map((pciVendorSelector) => ({
    pciVendorSelector,
    resourceName: resource,
    externalResourceProvider: true as const,
  }))
  return {
    format: 'kubevirt',
    devices: primaries.map((device) => ({ address: device.address, pciVendorSelector: selectorOf(device) })),
    permittedHostDevices: { pciHostDevices },
    text: toYaml(pciHostDevices),
    notes: [...notes, ...primaries.flatMap((primary) => companionNote(seen, primary))],
    blockers,
  }
}

const selectorOf = ({ ids }: PciDevice) => ids.toUpperCase()

/** The first of those that are named of its group. */
function primaryOf(named: readonly PciDevice[], { group, address }: PciDevice): PciDevice | undefined {
  const same = named.filter((one) => (group === null ? one.address === address : one.group === group))
  return same.sort((a, b) => compareAddresses(a.address, b.address))[0]
}

function companionNote(seen: Snapshot, { address, group }: PciDevice): string[] {
  const others = seen.devices.filter(
    (one) => group !== null && one.group === group && one.address !== address && !isBridge(one),
  )
  if (others.length === 0) return []
  const names = others.map((one) => one.address).join(', ')
  return [`a guest gets ${address} alone: ${names} of its group ${group} is bound with it, and stays unused`]
}

/** Quoted: YAML would take digits with a colon for a number to the base of 60. */
const toYaml = (devices: readonly PciHostDevice[]) =>
  [
    'permittedHostDevices:',
    '  pciHostDevices:',
    ...devices.flatMap(({ pciVendorSelector, resourceName, externalResourceProvider }) => [
      `    - pciVendorSelector: "${pciVendorSelector}"`,
      `      resourceName: "${resourceName}"`,
      `      externalResourceProvider: ${externalResourceProvider}`,
    ]),
    '',
  ].join('\n')
