import { VfioError } from '../errors.js'

const FULL = /^(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])$/i

/** A PCI address in its parts: domain 0–0xffffffff, bus 0–255, device 0–31, function 0–7. */
export interface AddressParts {
  readonly domain: number
  readonly bus: number
  readonly device: number
  readonly function: number
}

/**
 * Takes an address apart, as people type it (`59:00.0`, `0000:59:00.0`) and as sysfs prints it
 * (`10000:e1:00.0` too: a domain may be wider than 16 bits). `null` where it is not an address.
 */
export function splitAddress(text: string): AddressParts | null {
  const match = FULL.exec(text)
  if (!match) return null
  const [, domain = '0', bus = '', device = '', fn = ''] = match
  return {
    domain: Number.parseInt(domain, 16),
    bus: Number.parseInt(bus, 16),
    device: Number.parseInt(device, 16),
    function: Number(fn),
  }
}

const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0')

/** The form that sysfs uses for file names: `dddd:bb:dd.f`, lower case. */
export function formatAddress(parts: AddressParts): string {
  return `${hex(parts.domain, 4)}:${hex(parts.bus, 2)}:${hex(parts.device, 2)}.${parts.function}`
}

/** Is this an address as sysfs writes it? */
export function isAddress(name: string): boolean {
  const parts = splitAddress(name)
  return parts !== null && formatAddress(parts) === name
}

/**
 * The address in sysfs form.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS` where the text is not a PCI address.
 */
export function parseAddress(text: string): string {
  const parts = typeof text === 'string' ? splitAddress(text) : null
  if (!parts) {
    throw new VfioError(
      'ERR_VFIO_BAD_ADDRESS',
      `${quote(text)} is not a PCI address: expected [domain:]bus:device.function in hexadecimal, like 59:00.0 or 0000:59:00.0`,
    )
  }
  return formatAddress(parts)
}

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

/** `domain:bus:device` of an address in sysfs form: what a slot covers. */
export const slotOf = (address: string) => address.slice(0, address.lastIndexOf('.'))
