import { VfioError } from '../errors.js'
import { type AddressParts, parseAddress, splitAddress } from '../sysfs/address.js'
import type { Machine } from './machine.js'

/** The ids of a zPCI function: `uid` 1–0xffff, `fid` 0–0xffffffff. Further functions get the numbers that follow. */
export interface ZpciIds {
  readonly uid: number
  /** Left out: the hypervisor chooses. */
  readonly fid?: number | undefined
}

const badArgument = (message: string) => new VfioError('ERR_VFIO_BAD_ARGUMENT', message)

/**
 * Reads `UID[,FID]`, in decimal or as `0x…`.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT`
 */
export function parseZpci(text: string): ZpciIds {
  const match = /^(0x[0-9a-f]{1,8}|\d{1,10})(?:,(0x[0-9a-f]{1,8}|\d{1,10}))?$/i.exec(text)
  if (!match) {
    throw badArgument(
      `${JSON.stringify(text.slice(0, 40))} is not UID[,FID]: expected numbers like 1 or 0x0001,0x00000000`,
    )
  }
  const ids = { uid: Number(match[1]), ...(match[2] !== undefined && { fid: Number(match[2]) }) }
  checkZpci(ids, 1)
  return ids
}

/** @throws VfioError `ERR_VFIO_BAD_ARGUMENT` where one of `count` functions would get an id that there is not */
export function checkZpci({ uid, fid }: ZpciIds, count: number): void {
  const inRange = (value: number, first: number, last: number) =>
    Number.isInteger(value) && value >= first && value + count - 1 <= last
  if (!inRange(uid, 1, 0xffff)) {
    throw badArgument(`the zPCI uid ${uid} for ${count} functions leaves the range of 1 to 0xffff`)
  }
  if (fid !== undefined && !inRange(fid, 0, 0xffffffff)) {
    throw badArgument(`the zPCI fid ${fid} for ${count} functions leaves the range of 0 to 0xffffffff`)
  }
}

/**
 * The places in the guest for `count` slots, the first at `address`. On the root bus and on a conventional machine they
 * are neighbouring slots; else each is the only slot of a bus of its own, as below a PCI Express port.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_BAD_ARGUMENT`
 */
export function guestPlaces(address: string, count: number, machine: Machine): AddressParts[] {
  const first = splitAddress(parseAddress(address))
  if (first === null) throw badArgument(`${address} is not an address`)
  if (first.domain > 0xffff) throw badArgument(`the guest address ${address} has a domain above ffff`)
  if (first.function !== 0) {
    throw badArgument(
      `the guest address ${address} names a function: the first function of a slot is always .0, the others follow`,
    )
  }
  const alongSlots = first.bus === 0 || machine.kind === 'conventional'
  return Array.from({ length: count }, (_none, index) => {
    const place = alongSlots
      ? { ...first, device: first.device + index }
      : { ...first, bus: first.bus + index }
    if (place.device > 31 || place.bus > 255) {
      throw badArgument(`there is no room for ${count} slots from the guest address ${address} on`)
    }
    if (place.bus === 0 && place.device === 0) {
      throw badArgument(`the guest address ${address} is that of the host bridge: begin at 00:01.0`)
    }
    return place
  })
}
