import { assess, tokenToOpen } from '../assess/assessment.js'
import { opensByIommufd } from '../assess/backends.js'
import { isBridge } from '../assess/topology.js'
import { VfioError } from '../errors.js'
import { compareAddresses } from '../sysfs/address.js'
import { isWithVfio, type PciDevice } from '../sysfs/devices.js'
import type { MediatedDevice } from '../sysfs/mediated.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { CDI_CONSUMERS, CDI_KIND, type CdiConsumer, cdiFile, checkCdiKind } from './cdi-kind.js'

export interface CdiOptions {
  /** `vendor/class`; default `vfio/pci`. For Kata it is the name of the Kubernetes resource, and has no default. */
  readonly kind?: string | undefined
  /** Default `plain`: the container opens the devices itself. `kata`: they go to the VM around it. */
  readonly consumer?: CdiConsumer | undefined
  /**
   * What they are opened through: the node of their group, or `/dev/iommu` and a node for each. Left out: groups, unless
   * the kernel has nothing but `/dev/iommu`.
   */
  readonly backend?: 'group' | 'iommufd' | undefined
}

/** A device as CDI knows it: all of one group. */
export interface CdiDevice {
  /** The address, or the UUID, that was named first of its group. */
  readonly name: string
  /** What is asked for: `vendor/class=name`. */
  readonly qualifiedName: string
  /** `null` for a mediated device of a kernel without groups. */
  readonly group: number | null
  /** All that VFIO opens there, the one that gave its name first. */
  readonly addresses: readonly string[]
  /** The device nodes that come with it alone. */
  readonly nodes: readonly string[]
}

/** A device node in a container, at the path that it has on the host; number and owner are the host's when it starts. */
export interface CdiNode {
  readonly path: string
  readonly permissions: 'rw'
}

/** What a runtime changes of a container. */
export interface CdiEdits {
  readonly env?: readonly string[]
  readonly deviceNodes?: readonly CdiNode[]
}

/** The content of a file of CDI 0.5.0, which is all that runtimes from 2022 on read. */
export interface CdiSpecification {
  readonly cdiVersion: '0.5.0'
  readonly kind: string
  readonly devices: readonly { readonly name: string; readonly containerEdits: CdiEdits }[]
  /** What comes with any of them, once. */
  readonly containerEdits?: CdiEdits
}

/** Devices for container runtimes. */
export interface CdiExport {
  readonly format: 'cdi'
  readonly consumer: CdiConsumer
  readonly backend: 'group' | 'iommufd'
  readonly devices: readonly CdiDevice[]
  readonly specification: CdiSpecification
  /** The same as the text of a file. */
  readonly text: string
  /** The name of that file, by its kind. */
  readonly file: string
  /** What else it takes, a sentence each. */
  readonly notes: readonly string[]
}

/**
 * A specification of the Container Device Interface for devices, with which podman, containerd, CRI-O, Docker and Kata
 * give them to containers: one device for each group, with all of it, in one file of one kind.
 * @param addresses PCI addresses, or UUIDs of mediated devices; the first of a group names it
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`; `ERR_VFIO_BAD_ARGUMENT` for a kind, a consumer or a
 * backend that is none, for no address, and for bridges; `ERR_VFIO_NOT_VIABLE` for what cannot be given away, or not to this
 * consumer; `ERR_VFIO_BAD_NODE` for what is not bound yet, and where a node is missing; `ERR_VFIO_INCOMPLETE_GROUP` where others
 * of its group are not bound; `ERR_VFIO_NO_GROUP` where there is no group to open it by
 */
export function exportCdi(seen: Snapshot, addresses: readonly string[], options: CdiOptions = {}): CdiExport {
  const consumer = consumerOf(options.consumer)
  const kind = kindOf(options.kind, consumer)
  const backend = backendOf(seen, options.backend)
  const sets = setsOf(seen, addresses)
  for (const set of sets) checkSet(seen, set, consumer)
  const devices = sets.map((set): CdiDevice => {
    const [name = ''] = set.devices.map(nameOf)
    return {
      name,
      qualifiedName: `${kind}=${name}`,
      group: set.group,
      addresses: set.devices.map(nameOf),
      nodes: nodesOf(seen, set, backend),
    }
  })
  const shared = sharedNodes(seen, consumer, backend)
  const specification: CdiSpecification = {
    cdiVersion: '0.5.0',
    kind,
    devices: devices.map(({ name, addresses, nodes }) => ({
      name,
      containerEdits: {
        // In a VM they have other addresses.
        ...(consumer === 'plain' && { env: [`${variableOf(name)}=${addresses.join(' ')}`] }),
        deviceNodes: nodes.map(node),
      },
    })),
    ...(shared.length > 0 && { containerEdits: { deviceNodes: shared.map(node) } }),
  }
  return {
    format: 'cdi',
    consumer,
    backend,
    devices,
    specification,
    text: cdiText(specification),
    file: cdiFile(kind),
    notes: notesOf(seen, sets, consumer),
  }
}

/** The text of a specification, as a file has it. @internal */
export const cdiText = (specification: CdiSpecification): string =>
  `${JSON.stringify(specification, null, 2)}\n`

/**
 * The variable by which a program in the container finds what it was given; one for each device, since of one name the
 * last would win. @internal
 */
export const variableOf = (name: string): string =>
  `VFIO_ADDRESSES_${name.toUpperCase().replaceAll(/[^A-Z0-9]/g, '_')}`

type Device = PciDevice | MediatedDevice

/** What is given away as one. */
interface DeviceSet {
  readonly group: number | null
  readonly devices: readonly Device[]
  /** Those that were asked for. */
  readonly named: readonly Device[]
}

const nameOf = (device: Device) => ('uuid' in device ? device.uuid : device.address)
const node = (path: string): CdiNode => ({ path, permissions: 'rw' })

function consumerOf(consumer: CdiConsumer = 'plain'): CdiConsumer {
  if (CDI_CONSUMERS.includes(consumer)) return consumer
  throw new VfioError(
    'ERR_VFIO_BAD_ARGUMENT',
    `the consumer of a CDI device is one of ${CDI_CONSUMERS.join(', ')}, not ${JSON.stringify(consumer)}`,
  )
}

function kindOf(kind: string | undefined, consumer: CdiConsumer): string {
  if (kind === undefined && consumer === 'kata') {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      'Kata finds a device by the name of its Kubernetes resource: name that as the kind (--kind example.com/gpu)',
    )
  }
  const wanted = kind ?? CDI_KIND
  checkCdiKind(wanted, consumer)
  return wanted
}

function backendOf({ host }: Snapshot, asked: CdiOptions['backend']): 'group' | 'iommufd' {
  const backend = asked ?? (opensByIommufd(host) ? 'iommufd' : 'group')
  if (backend === 'group' || backend === 'iommufd') return backend
  throw new VfioError(
    'ERR_VFIO_BAD_ARGUMENT',
    `the backend of a CDI device is "group" or "iommufd", not ${JSON.stringify(backend)}`,
  )
}

/** In the order in which they are named. */
function setsOf(seen: Snapshot, addresses: readonly string[]): DeviceSet[] {
  if (addresses.length === 0)
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', 'no device is named: give at least one PCI address')
  const named = addresses.flatMap((address) => seen.named(address))
  const bridge = named.find((device) => !('uuid' in device) && isBridge(device))
  if (bridge) {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      `${nameOf(bridge)} is a bridge: it stays with the host, and VFIO takes only what is below it`,
    )
  }
  const sets = new Map<string, Device[]>()
  for (const device of named) {
    const key = device.group === null ? nameOf(device) : `group ${device.group}`
    const known = sets.get(key) ?? []
    if (!known.includes(device)) sets.set(key, [...known, device])
  }
  return [...sets.values()].map((devices) => {
    const group = devices[0]?.group ?? null
    const others = (group === null ? [] : membersOf(seen, group)).filter(
      (member) => !devices.includes(member),
    )
    return { group, named: devices, devices: [...devices, ...others] }
  })
}

/** All that VFIO opens by the node of a group. */
function membersOf(seen: Snapshot, group: number): Device[] {
  const functions = [...seen.group(group).members]
    .sort(compareAddresses)
    .map((address) => seen.device(address))
  const mediated = seen.mediated.filter((device) => device.group === group)
  return [...functions, ...mediated].filter(isWithVfio)
}

/** Refuses what nobody could open, or not this consumer, with what has to be done first. */
function checkSet(seen: Snapshot, { named, devices, group }: DeviceSet, consumer: CdiConsumer): void {
  const assessments = named.map((device) => assess(seen, nameOf(device)))
  const blocked = assessments.filter(({ verdict }) => verdict === 'blocked')
  if (blocked.length > 0)
    throw new VfioError('ERR_VFIO_NOT_VIABLE', blocked.map(({ reason }) => reason).join('; '))
  const unbound = assessments.filter(({ verdict }) => verdict !== 'ready')
  if (unbound.length > 0) {
    const reason = [...new Set(unbound.map(({ reason }) => reason))].join('; ')
    // Where the host would not survive it, the reason says so, and no command is offered.
    const isVital = unbound.some(({ uses }) => uses.some((use) => use.vital))
    const option = unbound.some(({ noIommu }) => noIommu) ? ['--noiommu'] : []
    const toBind = [...new Set(unbound.flatMap((one) => one.toBind)), ...option].join(' ')
    const isBound = named.every(isWithVfio)
    throw new VfioError(
      isBound ? 'ERR_VFIO_INCOMPLETE_GROUP' : 'ERR_VFIO_BAD_NODE',
      isVital ? reason : `${reason}: run "vfio bind ${toBind}" first`,
    )
  }
  if (consumer !== 'kata') return
  if (group !== null && seen.group(group).noIommu) {
    throw new VfioError(
      'ERR_VFIO_NOT_VIABLE',
      `${devices.map(nameOf).join(', ')}: in the no-IOMMU mode VFIO gives no device to a VM, and Kata's containers are VMs`,
    )
  }
  const token = devices.map((device) => tokenOf(seen, device)).find((text) => text !== '')
  if (token)
    throw new VfioError(
      'ERR_VFIO_NOT_VIABLE',
      `${token}; Kata gives none: bind that to its own driver instead`,
    )
}

const tokenOf = (seen: Snapshot, device: Device) => {
  const token = 'uuid' in device ? '' : tokenToOpen(seen, device)
  return token === '' ? '' : `${nameOf(device)}${token}`
}

/** The nodes of a set, each checked to be there. */
function nodesOf(seen: Snapshot, { group, devices }: DeviceSet, backend: 'group' | 'iommufd'): string[] {
  const { groups, devices: own } = seen.host.nodes
  if (backend === 'iommufd') {
    return devices.map((device) => {
      const { vfioDevice } = device
      if (vfioDevice === null || !/^vfio\d+$/.test(vfioDevice)) {
        throw new VfioError(
          'ERR_VFIO_BAD_NODE',
          `${nameOf(device)} has no node of its own, so iommufd cannot open it here (CONFIG_IOMMUFD, CONFIG_VFIO_DEVICE_CDEV, module iommufd): let it be opened by its group`,
        )
      }
      return checked(seen, `vfio/devices/${vfioDevice}`, own)
    })
  }
  if (group === null) {
    throw new VfioError(
      'ERR_VFIO_NO_GROUP',
      `${devices.map(nameOf).join(', ')} is in no IOMMU group: let it be opened by /dev/iommu (--iommufd)`,
    )
  }
  return [checked(seen, `vfio/${seen.group(group).noIommu ? 'noiommu-' : ''}${group}`, groups)]
}

/** What any of them is opened with. Kata's VM opens its cdevs itself, and would take these for devices. */
function sharedNodes(seen: Snapshot, consumer: CdiConsumer, backend: 'group' | 'iommufd'): string[] {
  const { container, iommu } = seen.host.nodes
  if (backend === 'group') return [checked(seen, 'vfio/vfio', container ? [container] : [])]
  const path = checked(seen, 'iommu', iommu ? [iommu] : [])
  return consumer === 'kata' ? [] : [path]
}

/** A runtime fails to start a container whose node is missing. Beside another host's sysfs nodes are not known. */
function checked({ host }: Snapshot, name: string, nodes: readonly { readonly path: string }[]): string {
  const path = `/dev/${name}`
  if (host.paths.dev === null || nodes.some((one) => one.path === `${host.paths.dev}/${name}`)) return path
  throw new VfioError(
    'ERR_VFIO_BAD_NODE',
    `${path} is not there, through which it would be opened: ${cureOf(name)}`,
  )
}

const cureOf = (name: string) => {
  if (name === 'vfio/vfio')
    return 'load vfio (modprobe vfio), or on a kernel without containers (CONFIG_VFIO_CONTAINER) let it be opened by /dev/iommu (--iommufd)'
  if (name === 'iommu') return 'load iommufd (modprobe iommufd), or let it be opened by its group'
  return 'in a container give it the /dev of the host, else mount devtmpfs there, or let udev make it (udevadm trigger --action=add)'
}

function notesOf(seen: Snapshot, sets: readonly DeviceSet[], consumer: CdiConsumer): string[] {
  const notes: string[] = []
  if (seen.host.paths.dev === null)
    notes.push('whether these device nodes are there is not known: this is the sysfs of another host')
  if (consumer === 'kata') return notes
  const unprotected = sets.filter(({ group }) => group !== null && seen.group(group).noIommu)
  if (unprotected.length > 0) {
    const names = unprotected.flatMap(({ devices }) => devices.map(nameOf)).join(', ')
    notes.push(
      `${names}: in the no-IOMMU mode the container can reach all memory of the host through it, and needs the capability SYS_RAWIO (--cap-add SYS_RAWIO)`,
    )
  }
  notes.push(...sets.flatMap(({ devices }) => devices.map((device) => tokenOf(seen, device))).filter(Boolean))
  notes.push(
    'memory for DMA counts against the limit on locked memory of the container: raise it where it is low (--ulimit memlock=-1)',
  )
  return notes
}
