import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { release } from 'node:os'
import {
  assess,
  Host,
  type OpenedByGroup,
  openDevice,
  type PciDevice,
  VfioError,
  VfioSystemError,
} from 'vfio'
import { skip } from '../fixtures/skip.js'
import { inUse, meetIommu, put } from './binding.js'

const [major = 0, minor = 0] = release().split('.').map(Number)

/** Is the kernel of this guest at least this one? */
export const since = (wantedMajor: number, wantedMinor: number) =>
  major > wantedMajor || (major === wantedMajor && minor >= wantedMinor)

const used = inUse()
meetIommu(used)
const seen = new Host().snapshot()

/** The devices that this guest can spare. */
export const spare = seen.devices.filter(
  ({ address, headerType }) =>
    headerType === 'normal' && !used.has(address) && assess(seen, address).verdict !== 'blocked',
)

export const isAlone = ({ group }: PciDevice) => group !== null && seen.group(group).members.length === 1
export const isEdu = ({ vendor, device }: PciDevice) => vendor === 0x1234 && device === 0x11e8
export const hasMsix = ({ capabilities }: PciDevice) => capabilities.msix !== null

/** The first device that fits; `what` says what is missing where none does. */
export function choose(what: string, fits: (device: PciDevice) => boolean): PciDevice {
  const device = spare.find(fits)
  if (!device) throw new Error(`the topology has no ${what}`)
  return device
}

/** Smallest page of this kernel's memory, in bytes. */
export const PAGE =
  1024 * Number(/^KernelPageSize:\s*(\d+) kB$/m.exec(readFileSync('/proc/self/smaps', 'utf8'))?.[1])

/** Other processors are always emulated, and their Node has ten times as much to do for each step. */
export const SLOW = process.arch !== 'x64'

/** Linux on Z takes only functions with MSI-X, and shows no bridges: some devices of the other topologies it cannot have. */
export const isZpci = process.arch === 's390x'

/** Whether MSI-X vectors can be added while others are on: on x86 since 6.5, on arm64 seen on 7.3, and not on 6.12. */
export const growsMsix = (since(6, 5) && process.arch === 'x64') || (since(7, 0) && process.arch === 'arm64')

/** As {@link choose}; `null` on Linux on Z where there is none. */
export const chooseUnlessZpci = (what: string, fits: (device: PciDevice) => boolean): PciDevice | null =>
  isZpci ? (spare.find(fits) ?? null) : choose(what, fits)

/** Under QEMU's AMD-Vi no interrupt of an I/O APIC comes while they are remapped: `/proc/interrupts` counts none. */
export const hasIntx = !seen.host.iommu.units.some(({ kind }) => kind === 'amd-iommu')

/** A test of a device that this host may not have. */
export function itWith(
  what: string,
  device: PciDevice | null,
  title: string,
  run: (device: PciDevice) => Promise<void>,
): void {
  it(title, async function () {
    if (device === null) skip(this, `this host has no ${what}`)
    await run(device)
  })
}

/** Binds all of a device's group that has to be, and opens it by that; for what is the same whatever way it was opened. */
export function openByGroup(address: string): Promise<OpenedByGroup> {
  for (const one of assess(new Host().snapshot({ around: [address] }), address).toBind) put(one, 'vfio-pci')
  return openDevice(address, { backend: 'group' })
}

/** Puts every device that can be spared to no driver. */
export function freeAll(): void {
  for (const { address } of spare) put(address, 'none')
}

export function returnAll(): void {
  for (const { address } of spare) put(address, 'host')
}

/** That a call fails with a typed error, whose message fits. */
export async function refused(
  of: Promise<unknown> | (() => unknown),
  code: string | readonly string[],
  message?: RegExp,
): Promise<void> {
  let error: unknown
  try {
    await (typeof of === 'function' ? of() : of)
  } catch (thrown) {
    error = thrown
  }
  assert(error instanceof VfioError, `${of} should have failed with ${code}, not with ${error}`)
  assert([code].flat().includes(error.code), `${error.code} instead of ${code}: ${error.message}`)
  if (message) assert.match(error.message, message)
  if (error instanceof VfioSystemError) assert(error.hint, `${error.request} ${error.code} has no hint`)
}
