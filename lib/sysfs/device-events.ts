import { isAddress, isUuid } from './address.js'
import { decode } from './bytes.js'

/**
 * `added`, `removed`: the device itself; `bound`, `unbound`: a driver; `error`, `recovered`, `failed`: what the kernel makes of an
 * error that the device reported (AER), and `corrected` one that did no harm; `release-requested`: somebody unbinds or
 * unplugs it, and waits until it is closed; `opened`, `closed`: the node by which programs have it, or its group; `changed`: anything
 * else, such as its VFIO node or its virtual functions; `lost`: messages were lost, so anything may have happened.
 */
export type DeviceEventKind =
  | 'added'
  | 'removed'
  | 'bound'
  | 'unbound'
  | 'changed'
  | 'error'
  | 'corrected'
  | 'recovered'
  | 'failed'
  | 'release-requested'
  | 'opened'
  | 'closed'
  | 'lost'

/** What happened to a device. */
export interface DeviceEvent {
  readonly kind: DeviceEventKind
  /** In sysfs form, of a mediated device its UUID; `null` where it may be about any device: an IOMMU, or what was lost. */
  readonly address: string | null
  /** In one sentence, without a full stop. */
  readonly what: string
}

/** An event of a whole group, whose members are looked up. */
export interface GroupEvent {
  readonly kind: 'changed'
  readonly group: number
  readonly what: string
}

const event = (kind: DeviceEventKind, address: string | null, what: string): DeviceEvent =>
  Object.freeze({ kind, address, what })

const lastOf = (path: string) => path.slice(path.lastIndexOf('/') + 1)

/**
 * What a message of the kernel about a device means (`lib/kobject_uevent.c`); `null` where it is about none that VFIO has to
 * do with. `ACTION@DEVPATH`, and then `NAME=VALUE`, each with a NUL at its end.
 */
export function eventOfUevent(message: Uint8Array): DeviceEvent | GroupEvent | null {
  const [head = '', ...lines] = decode(message).split('\0')
  const at = head.indexOf('@')
  const path = head.slice(at + 1)
  const values = new Map(
    lines.map((line) => {
      const equals = line.indexOf('=')
      return [line.slice(0, Math.max(equals, 0)), line.slice(equals + 1)]
    }),
  )
  const action = head.slice(0, Math.max(at, 0))
  switch (values.get('SUBSYSTEM')) {
    case 'pci':
      return isAddress(lastOf(path)) ? ofFunction(action, lastOf(path), values) : null
    case 'mdev':
      // Their parents' types have no such names.
      return isUuid(lastOf(path)) ? ofFunction(action, lastOf(path), values) : null
    case 'vfio-dev':
      return ofNode(action, path)
    case 'vfio':
      return ofGroup(action, lastOf(path))
    case 'iommu':
      return ofIommu(action, lastOf(path))
    default:
      return null
  }
}

function ofFunction(
  action: string,
  address: string,
  values: ReadonlyMap<string, string>,
): DeviceEvent | null {
  switch (action) {
    case 'add':
      return event(
        'added',
        address,
        `${address} is there: it was ${isUuid(address) ? 'made' : 'plugged in, or found by a rescan'}`,
      )
    case 'remove':
      return event(
        'removed',
        address,
        `${address} is gone: it was ${isUuid(address) ? 'removed' : 'unplugged, or removed'}`,
      )
    case 'bind':
      return event('bound', address, `${address} is bound to ${values.get('DRIVER') ?? 'a driver'}`)
    case 'unbind':
      return event('unbound', address, `${address} was unbound from its driver`)
    case 'change':
      return ofRecovery(address, values) ?? event('changed', address, `something about ${address} changed`)
    default:
      return null
  }
}

/** What the kernel tells of an error and of what became of it (`pci_uevent_ers()` of `drivers/pci/pci-driver.c`). */
function ofRecovery(address: string, values: ReadonlyMap<string, string>): DeviceEvent | null {
  switch (values.get('ERROR_EVENT')) {
    case 'BEGIN_RECOVERY':
      return event('error', address, `${address} is hit by an error, and the kernel tries to recover it`)
    case 'SUCCESSFUL_RECOVERY':
      return event('recovered', address, `the kernel has recovered ${address} from an error`)
    case 'FAILED_RECOVERY':
      return event('failed', address, `the kernel could not recover ${address} from an error`)
    default:
  }
  switch (values.get('DEVICE_ONLINE')) {
    case '0':
      return event('error', address, `${address} is offline after an error`)
    case '1':
      return event('recovered', address, `${address} is online again after an error`)
    default:
      return null
  }
}

const isThere = (action: string) => (action === 'add' ? 'is there' : action === 'remove' ? 'is gone' : null)

/** The VFIO device of a function, by which it is opened: `…/ADDRESS/vfio-dev/vfioN`. */
function ofNode(action: string, path: string): DeviceEvent | null {
  const [name = '', , address = ''] = path.split('/').reverse()
  const state = isThere(action)
  if (state === null || !isAddress(address)) return null
  return event('changed', address, `the VFIO device of ${address}, ${name}, ${state}`)
}

const GROUP = /^(?:noiommu-)?(\d{1,10})$/

function ofGroup(action: string, name: string): GroupEvent | null {
  const [, group] = GROUP.exec(name) ?? []
  const state = isThere(action)
  if (group === undefined || state === null) return null
  return {
    kind: 'changed',
    group: Number(group),
    what: `the file of group ${group}, /dev/vfio/${name}, ${state}`,
  }
}

function ofIommu(action: string, name: string): DeviceEvent | null {
  const state = isThere(action)
  return state === null ? null : event('changed', null, `the IOMMU ${name} ${state}`)
}

/** The kernel's own, not what a program wrote there (`Documentation/ABI/testing/dev-kmsg`): its facility is 0. */
const RECORD = /^(\d+),[^;]*;([^\n]*)\n?/
const DEVICE = /^ DEVICE=\+pci:(.+)$/m

const ADDRESS = /\b[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]\b/g

/** What a record of the kernel's log means for the devices that it names. */
export function eventsOfRecord(message: Uint8Array): readonly DeviceEvent[] {
  const record = decode(message)
  const [head, priority, text = ''] = RECORD.exec(record) ?? []
  // The lower three bits are the level.
  if (head === undefined || Number(priority) >> 3 !== 0) return []
  const [, sender] = DEVICE.exec(record.slice(head.length)) ?? []
  return ofText(text, sender !== undefined && isAddress(sender) ? sender : null)
}

/** `Relaying …`, `No device request …`: vfio_pci_core_request(); the last: vfio_unregister_group_dev(). */
const REQUESTS: readonly (readonly [RegExp, string])[] = [
  [/: Relaying device request to user/, 'somebody wants {} back: its program is asked to release it'],
  [
    /: No device request channel registered, blocked until released by user/,
    'somebody wants {} back, and its program does not listen for that (`req`): close it',
  ],
  [
    /: [Dd]evice is currently in use, task .* blocked until device is released/,
    'somebody wants {} back, and waits until its program has closed it',
  ],
]

/** `drivers/pci/pcie/aer.c`, of 5.10 to 7.3: of a device, `severity=`; of the port that was told, what was received, and from whom. */
const SEVERITY = /(?:PCIe|CXL) Bus Error: severity=([^,]+)/
const RECEIVED =
  /AER: (?:Multiple )?(Correct[^ ]*|Uncorrect[^ ]*(?: \([^)]*\))?) errors? (?:messages? )?received/i

function ofText(text: string, sender: string | null): readonly DeviceEvent[] {
  for (const [pattern, what] of REQUESTS) {
    if (sender !== null && pattern.test(text))
      return [event('release-requested', sender, what.replace('{}', sender))]
  }
  const [matched, severity = ''] = SEVERITY.exec(text) ?? RECEIVED.exec(text) ?? []
  if (matched === undefined) return []
  const named = new Set([...text.matchAll(ADDRESS)].map(([address]) => address).filter(isAddress))
  if (sender !== null) named.add(sender)
  const kind = /^Correct/.test(severity) ? 'corrected' : 'error'
  return [...named].map((address) =>
    event(
      kind,
      address,
      address === sender && !text.includes('received')
        ? `${address} has a PCIe error: ${severity}`
        : `a PCIe error of ${address} was reported: ${severity}`,
    ),
  )
}
