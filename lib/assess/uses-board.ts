import { isWithVfio, type PciDevice } from '../sysfs/devices.js'
import type { Finding } from './host-use.js'

/** What hangs on functions of a board itself, by class and subclass: nobody publishes these users. */
const PARTS: Readonly<Record<number, readonly [name: string, what: string]>> = {
  1536: ['its host bridge', 'how the processor reaches memory and devices'],
  1537: ['its ISA or LPC bridge', 'what hangs there: firmware flash, TPM, fans, sensors, serial ports'],
  3077: ['its SMBus', 'the memory modules, and controllers of voltages and fans'],
  3200: ['a serial bus of it', 'what hangs there: firmware flash, touchpad or sensors'],
}

/** A part of the board, on a root bus: a card of such a class is in a slot. */
const partOf = ({ class: code, parent, sriov }: PciDevice) =>
  parent === null && sriov === null ? PARTS[code >>> 8] : undefined

/** Is a function a part of the board that no guest should have? @internal */
export const isOfBoard = (device: PciDevice) => partOf(device) !== undefined

const CXL_MEMORY = 0x0502

/** Memory on CXL may be a part of the host's own, which no driver takes out of use when it goes (`cxl_region_decode_reset`). */
export function memoryUses({ class: code, driver, vfioRegistered }: PciDevice): Finding[] {
  if (code >>> 8 !== CXL_MEMORY || driver === null || isWithVfio({ driver, vfioRegistered })) return []
  const what =
    'whether its memory is a part of this host\'s own is not known, and that would not survive its loss: see "cxl list -R" and "daxctl list"'
  return [{ kind: 'other', what, severity: 'blocks', unknown: true }]
}

/** What the host loses with a part of its board, and a guest gains. */
export function boardUses(device: PciDevice): Finding[] {
  const part = partOf(device)
  if (part === undefined) return []
  const [name, what] = part
  return [
    {
      kind: 'other',
      what: `it is a part of the board (${name}): who drives it reaches ${what}`,
      severity: 'warns',
    },
  ]
}
