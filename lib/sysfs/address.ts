import { VfioError } from '../errors.js'
import { didYouMean, nearest } from '../nearest.js'

/** What an address is made of; without a function it names a whole device. */
const FIELDS =
  /^(?:(?:0x)?([0-9a-f]{1,8}):)?(?:0x)?([0-9a-f]{1,2}):(?:0x)?([01]?[0-9a-f])(?:\.(?:0x)?([0-7]))?$/i
/** libvirt's node devices: `pci_0000_59_00_0`. */
const NODE_DEVICE = /^pci_([0-9a-f]{4,8})_([0-9a-f]{2})_([0-9a-f]{2})_([0-7])$/i
/** As `lshw` (`pci@0000:59:00.0`) and udev's links (`pci-0000:59:00.0`) write it. */
const PREFIX = /^pci[@-]/i
/** A value of libvirt's XML. Without `0x` it would be decimal or octal there: only what reads the same in all is taken. */
const ATTRIBUTE =
  /(?:^|[\s<])(domain|bus|slot|function)\s*=\s*(["']?)(0x[0-9a-f]{1,8}|[0-7])\2(?=[\s,/>]|$)/gi

/** A PCI address in its parts: domain 0–0xffffffff, bus 0–255, device 0–31, function 0–7. */
export interface AddressParts {
  readonly domain: number
  readonly bus: number
  readonly device: number
  readonly function: number
}

/** The parts of what may name a whole device: its function is `null` then. */
type Named = Omit<AddressParts, 'function'> & { readonly function: number | null }

function readFields(text: string): Named | null {
  const match = FIELDS.exec(text)
  if (!match) return null
  const [, domain = '0', bus = '', device = '', fn] = match
  return {
    domain: Number.parseInt(domain, 16),
    bus: Number.parseInt(bus, 16),
    device: Number.parseInt(device, 16),
    function: fn === undefined ? null : Number(fn),
  }
}

function readAttributes(text: string): Named | null {
  const found = new Map([...text.matchAll(ATTRIBUTE)].map(([, name = '', , value]) => [name, Number(value)]))
  const [bus, device, fn] = [found.get('bus'), found.get('slot'), found.get('function')]
  if (bus === undefined || device === undefined || bus > 0xff || device > 0x1f) return null
  if (fn !== undefined && fn > 7) return null
  return { domain: found.get('domain') ?? 0, bus, device, function: fn ?? null }
}

/** Every way in which people and programs write an address. */
function readNamed(text: string): Named | null {
  if (text.includes('=')) return readAttributes(text)
  const name = text.startsWith('/') ? text.replace(/\/+$/, '').replace(/^.*\//, '') : text
  return readFields(name.replace(NODE_DEVICE, '$1:$2:$3.$4').replace(PREFIX, ''))
}

/**
 * Takes an address apart, as people type it (`59:00.0`, `1:0.0`, `0000:59:00.0`), as sysfs prints it
 * (`10000:e1:00.0` too: a domain may be wider than 16 bits, and a path), and as libvirt does (`pci_0000_59_00_0`,
 * `0x59`). `null` where it is not the address of one function.
 */
export function splitAddress(text: string): AddressParts | null {
  const named = readNamed(text)
  return named === null || named.function === null ? null : { ...named, function: named.function }
}

const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0')

/** The form that sysfs uses for file names: `dddd:bb:dd.f`, lower case. */
function formatAddress(parts: AddressParts): string {
  return `${hex(parts.domain, 4)}:${hex(parts.bus, 2)}:${hex(parts.device, 2)}.${parts.function}`
}

const SYSFS = /^(?:[0-9a-f]{4}|[1-9a-f][0-9a-f]{4,7}):[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$/

/** Is this an address as sysfs writes it? */
export const isAddress = (name: string) => SYSFS.test(name)

/**
 * The address in sysfs form.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS` where the text is not the address of one PCI function.
 */
export function parseAddress(text: string): string {
  const named = typeof text === 'string' ? readNamed(text) : null
  if (!named) {
    throw new VfioError(
      'ERR_VFIO_BAD_ADDRESS',
      `${quote(text)} is not a PCI address: expected [domain:]bus:device.function in hexadecimal, like 59:00.0 or 0000:59:00.0`,
    )
  }
  if (named.function === null) {
    throw new VfioError(
      'ERR_VFIO_BAD_ADDRESS',
      `${quote(text)} names a device, and not which of its functions: expected [domain:]bus:device.function, like ${slotOf(formatAddress({ ...named, function: 0 }))}.0`,
    )
  }
  return formatAddress({ ...named, function: named.function })
}

/**
 * The addresses in sysfs form that a text means: one, or where it names a device without a function (`59:00`) all of its
 * functions that are known.
 * @param known the addresses that there are, in sysfs form; called only where the text leaves the function open
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`; `ERR_VFIO_NO_DEVICE` where a device has no function that is known
 */
export function expandAddress(text: string, known: () => Iterable<string>): readonly string[] {
  const named = typeof text === 'string' ? readNamed(text) : null
  if (named === null || named.function !== null) return [parseAddress(text)]
  const slot = slotOf(formatAddress({ ...named, function: 0 }))
  const all = [...known()]
  const found = all.filter((address) => slotOf(address) === slot).sort(compareAddresses)
  if (found.length > 0) return found
  throw noSuchDevice(slot, [...new Set(all.map(slotOf))])
}

/** One digit, or two in the other's place: a second would make the host bridge of nearly any address. */
const NEAR = 1

/**
 * @param known all that there are, written as `name` is
 * @internal
 */
export function noSuchDevice(name: string, known: readonly string[]): VfioError {
  // Who leaves the domain out means the first one, which not every host has.
  const place = name.slice(name.indexOf(':'))
  const elsewhere = known.filter((address) => address.endsWith(place))
  const hint =
    elsewhere.length > 0
      ? ` (in another domain there is ${elsewhere.join(', ')})`
      : didYouMean(nearest(name, [...known].sort(compareAddresses), NEAR))
  const cure =
    known.length === 0
      ? 'it shows none at all, and "vfio doctor" tells why'
      : '"vfio list" shows those that there are'
  return new VfioError('ERR_VFIO_NO_DEVICE', `there is no PCI device ${name} on this host${hint}: ${cure}`)
}

/**
 * The one address that a text means.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS` where it may be several, with all of them; else as {@link expandAddress}
 */
export function chooseAddress(text: string, known: () => Iterable<string>): string {
  const found = expandAddress(text, known)
  const [first = ''] = found
  if (found.length === 1) return first
  throw new VfioError(
    'ERR_VFIO_BAD_ADDRESS',
    `${quote(text)} may be any of ${found.join(', ')}: say which, with its function`,
  )
}

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
/** libvirt's node devices: `mdev_<uuid, with _>`, since 7.3 with the name of the parent behind it. */
const MDEV_NODE = /^mdev_([0-9a-f]{8}(?:_[0-9a-f]{4}){3}_[0-9a-f]{12})(?:_.+)?$/i
/** A value of libvirt's XML. */
const UUID_ATTRIBUTE = /(?:^|[\s<])uuid\s*=\s*(["']?)([0-9a-f-]{36})\1(?=[\s,/>]|$)/i
/** Nothing else that names a device is like that, so what is wrong with it can be told. */
const MEANT_AS_UUID = /^[0-9a-z]{1,12}(?:-[0-9a-z]{0,12}){2,}$|^[0-9a-f]{32}$/i

/** Is this the UUID of a mediated device, as sysfs writes it? */
export const isUuid = (name: string) => UUID.test(name)

/**
 * The UUID that a text gives a mediated device by: as it is, as a path of sysfs, and as libvirt writes it
 * (`mdev_83b8f4f2_…`, `uuid='83b8f4f2-…'`). `null` where it gives none.
 */
export function readUuid(text: string): string | null {
  const name = text.startsWith('/') ? text.replace(/\/+$/, '').replace(/^.*\//, '') : text
  const found = UUID_ATTRIBUTE.exec(text)?.[2] ?? MDEV_NODE.exec(name)?.[1]?.replaceAll('_', '-') ?? name
  const uuid = found.toLowerCase()
  return isUuid(uuid) ? uuid : null
}

/** @throws VfioError `ERR_VFIO_BAD_ADDRESS` */
export function parseUuid(text: string): string {
  const uuid = typeof text === 'string' ? readUuid(text) : null
  if (uuid !== null) return uuid
  throw new VfioError(
    'ERR_VFIO_BAD_ADDRESS',
    `${quote(text)} is not a UUID: expected 32 hexadecimal digits in five parts, like 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001`,
  )
}

/**
 * What names a device to VFIO, in sysfs form: the address of a PCI function, or the UUID of a mediated device.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS` where the text is neither
 */
export function parseName(text: string): string {
  if (typeof text !== 'string') return parseAddress(text)
  const uuid = readUuid(text)
  if (uuid !== null) return uuid
  return MEANT_AS_UUID.test(text) ? parseUuid(text) : parseAddress(text)
}

/** Names a text means as {@link expandAddress}, or the UUID that it is. */
export function expandName(text: string, known: () => Iterable<string>): readonly string[] {
  const isOne = typeof text === 'string' && (readUuid(text) !== null || MEANT_AS_UUID.test(text))
  return isOne ? [parseName(text)] : expandAddress(text, () => [...known()].filter(isAddress))
}

/** The one name that a text means, as {@link chooseAddress}. */
export function chooseName(text: string, known: () => Iterable<string>): string {
  const isOne = typeof text === 'string' && (readUuid(text) !== null || MEANT_AS_UUID.test(text))
  return isOne ? parseName(text) : chooseAddress(text, () => [...known()].filter(isAddress))
}

/** The directory of a device by what names it. */
export const directoryOf = (sysfs: string, name: string) =>
  `${sysfs}/bus/${isUuid(name) ? 'mdev' : 'pci'}/devices/${name}`

function quote(value: unknown): string {
  const text = JSON.stringify(typeof value === 'string' ? value : String(value))
  return text.length > 60 ? `${text.slice(0, 57)}…"` : text
}

/** Orders addresses by domain, bus, device and function. */
export function compareAddresses(a: string, b: string): number {
  // Sysfs pads all fields but a wide domain, so length decides first.
  return a.length - b.length || (a < b ? -1 : a > b ? 1 : 0)
}

/** `domain:bus` of an address in sysfs form: the name of its bus under `pci_bus`. */
export const busOf = (address: string) => address.slice(0, address.lastIndexOf(':'))

/** `domain:bus:device` of an address in sysfs form: a device with all its functions. */
export const slotOf = (address: string) => address.slice(0, address.lastIndexOf('.'))

/** Device and function in one number (`PCI_DEVFN`), as two hexadecimal digits. */
export function devfnOf(address: string): string {
  const { device = 0, function: fn = 0 } = splitAddress(address) ?? {}
  return hex(device * 8 + fn, 2)
}
