import { builtin } from '../builtin.js'
import type { VfioErrorCode } from '../errors.js'
import { VfioError } from '../errors.js'
import { parseUuid, splitAddress } from '../sysfs/address.js'
import type { MdevParent, MdevType } from '../sysfs/mediated.js'
import type { Snapshot } from '../sysfs/snapshot.js'

/** A type of mediated device, and the device that offers it. */
export interface OfferedMdevType extends MdevType {
  /** The name of the parent, as sysfs has it. */
  readonly parent: string
  /** The PCI function that it is, or that carries it; `null` for none. */
  readonly function: string | null
}

/** What can be made on a host: all types of all parents, in their order. */
export const mdevTypes = (seen: Snapshot): OfferedMdevType[] =>
  seen.mdevParents.flatMap(({ name, function: carrier, types }) =>
    types.map((type) => ({ parent: name, function: carrier, ...type })),
  )

export interface MdevOptions {
  /** The UUID of the new device; left out: a random one. */
  readonly uuid?: string | undefined
}

/** A mediated device that is to be made, and what is in the way. Plain data. */
export interface MdevPlan {
  readonly uuid: string
  readonly type: string
  readonly parent: string
  /** The PCI function that carries the parent; `null` for none. */
  readonly function: string | null
  /** Where the UUID is written. */
  readonly path: string
  readonly blockers: readonly { readonly code: VfioErrorCode; readonly reason: string }[]
}

/**
 * Plans a mediated device: pure, but for the UUID where none is given.
 * @param type its id (`i915-GVTg_V5_4`), or its name where that is the only one
 * @param parent a name of `class/mdev_bus`, or a PCI address in any form
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS` for a UUID that is none; `ERR_VFIO_NO_DEVICE` where the host has no such
 * parent; `ERR_VFIO_NO_MDEV` where that makes no mediated devices; `ERR_VFIO_BAD_ARGUMENT` where it offers no such type
 */
export function planMdev(seen: Snapshot, type: string, parent: string, options: MdevOptions = {}): MdevPlan {
  const uuid = options.uuid === undefined ? builtin('node:crypto').randomUUID() : parseUuid(options.uuid)
  const found = findParent(seen, parent)
  const offered = findType(found, type)
  const blockers: MdevPlan['blockers'][number][] = []
  const taken = seen.mediated.find((device) => device.uuid === uuid)
  if (taken) {
    blockers.push({
      code: 'ERR_VFIO_IN_USE',
      reason: `there is a mediated device ${uuid} already, of ${taken.parent ?? 'another parent'}: leave --uuid out for a new one, or remove that ("vfio mdev remove ${uuid}")`,
    })
  }
  if (offered.available === 0) {
    const others = found.types.flatMap(({ id, available }) => (available ? id : []))
    const made = found.types.flatMap(({ devices }) => devices)
    const cure = [
      ...(others.length > 0 ? [`take another type (${others.join(', ')})`] : []),
      ...(made.length > 0 ? [`remove one that there is (${made.join(', ')})`] : []),
    ]
    blockers.push({
      code: 'ERR_VFIO_NO_MDEV',
      reason: `${found.name} has no room for another ${offered.id}: ${cure.join(', or ') || 'its driver has none to give, and its log (dmesg) may say what it lacks'}`,
    })
  }
  const { sysfs } = seen.host.paths
  return {
    uuid,
    type: offered.id,
    parent: found.name,
    function: found.function,
    path: `${sysfs}/class/mdev_bus/${found.name}/mdev_supported_types/${offered.id}/create`,
    blockers,
  }
}

function findParent(seen: Snapshot, text: string): MdevParent {
  const exact = seen.mdevParents.find(({ name }) => name === text)
  if (exact) return exact
  if (typeof text === 'string' && splitAddress(text) !== null) {
    const { address } = seen.device(text)
    const carried = seen.mdevParents.find((parent) => parent.function === address)
    if (carried) return carried
    throw new VfioError(
      'ERR_VFIO_NO_MDEV',
      `${address} makes no mediated devices${whoDoes(seen)}: its driver (${seen.device(address).driver ?? 'none'}) has to offer them, for i915 with enable_gvt=1, for NVIDIA by its vGPU manager`,
    )
  }
  const near = nearest(
    text,
    seen.mdevParents.map(({ name }) => name),
  )
  throw new VfioError(
    'ERR_VFIO_NO_DEVICE',
    `there is no ${JSON.stringify(String(text).slice(0, 60))} that makes mediated devices on this host${near === null ? whoDoes(seen) : `: did you mean ${near}?`}`,
  )
}

function whoDoes({ mdevParents }: Snapshot): string {
  if (mdevParents.length === 0) return ', nor does anything else here'
  return ` ("vfio mdev list" shows what does: ${mdevParents.map(({ name }) => name).join(', ')})`
}

function findType(parent: MdevParent, text: string): MdevType {
  const { name, types } = parent
  const exact = types.find(({ id }) => id === text)
  if (exact) return exact
  const named = types.filter((type) => type.name === text)
  if (named[0] && named.length === 1) return named[0]
  const ids = types.map(({ id }) => id)
  // What the driver calls it may be what somebody remembers: `GVTg_V5_4` for `i915-GVTg_V5_4`.
  const near = ids.find((id) => id.endsWith(`-${text}`)) ?? nearest(text, ids)
  const hint = near === null ? `it has ${ids.join(', ') || 'none'}` : `did you mean ${near}?`
  throw new VfioError(
    'ERR_VFIO_BAD_ARGUMENT',
    `${name} has no type ${JSON.stringify(String(text).slice(0, 60))} of mediated devices: ${hint}`,
  )
}

/** The one that is the same but for a few letters; `null` for none. */
function nearest(text: string, known: readonly string[]): string | null {
  const wanted = String(text).toLowerCase()
  const ranked = known
    .map((name) => ({ name, distance: distanceOf(wanted, name.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance)
  const [best] = ranked
  return best && best.distance <= Math.max(1, Math.floor(wanted.length / 4)) ? best.name : null
}

/** How many letters have to be put in, taken out, changed, or swapped with the next. */
function distanceOf(a: string, b: string): number {
  if (a.length > 64 || b.length > 64) return Number.POSITIVE_INFINITY
  const rows = [Array.from({ length: b.length + 1 }, (_none, at) => at)]
  const at = (i: number, j: number) => rows[i]?.[j] ?? 0
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    rows.push(row)
    for (let j = 1; j <= b.length; j++) {
      const change = at(i - 1, j - 1) + (a[i - 1] === b[j - 1] ? 0 : 1)
      const isSwapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]
      const swap = isSwapped ? at(i - 2, j - 2) + 1 : Number.POSITIVE_INFINITY
      row.push(Math.min(change, swap, at(i - 1, j) + 1, at(i, j - 1) + 1))
    }
  }
  return at(a.length, b.length)
}
