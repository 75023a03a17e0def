import { execFileSync } from 'node:child_process'
import {
  existsSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { basename } from 'node:path'
import { type Assessment, assess, Host } from 'vfio'

/** Where a device is put: to the driver it has without anybody's doing (`host`), to one of these, or to none. */
export type Place = 'host' | 'vfio-pci' | 'uio_pci_generic' | 'pci-stub' | 'none'

const NAMED: ReadonlySet<string> = new Set(['vfio-pci', 'uio_pci_generic', 'pci-stub'])
const DEVICES = '/sys/bus/pci/devices'

export const isPresent = (address: string) => existsSync(`${DEVICES}/${address}`)

/** The driver that a function is bound to, as its link says. */
export function driverOf(address: string): string | null {
  try {
    return basename(readlinkSync(`${DEVICES}/${address}/driver`))
  } catch {
    return null
  }
}

/** Is a function where it should be? */
export function isAt(address: string, place: Place): boolean {
  const driver = driverOf(address)
  if (place === 'none') return driver === null
  return place === 'host' ? driver !== null && !NAMED.has(driver) : driver === place
}

/** A driver whose probe fails just now has let it go by itself: the kernel answers ENODEV then. */
function unbind(address: string): void {
  if (driverOf(address) === null) return
  try {
    writeFileSync(`${DEVICES}/${address}/driver/unbind`, address)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENODEV' || driverOf(address) !== null) throw error
  }
}

/** Puts a function to a driver; returns the driver it then has, since a driver may refuse it. */
export function put(address: string, place: Place): string | null {
  if (isAt(address, place)) return driverOf(address)
  unbind(address)
  // A zero-byte write does nothing: the line end is what clears it.
  writeFileSync(`${DEVICES}/${address}/driver_override`, NAMED.has(place) ? place : '\n')
  if (place !== 'none') probe(address)
  return driverOf(address)
}

/** Whether it bound is the link's to say: the write may succeed without, and fails when the driver refuses. */
function probe(address: string): void {
  try {
    writeFileSync('/sys/bus/pci/drivers_probe', address)
  } catch {
    return
  }
}

/** What the kernel answers to binding a function to vfio-pci: `ok`, or the errno of the write to `bind`. */
export function tryVfio(address: string): string {
  unbind(address)
  writeFileSync(`${DEVICES}/${address}/driver_override`, 'vfio-pci')
  try {
    writeFileSync('/sys/bus/pci/drivers/vfio-pci/bind', address)
    return 'ok'
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error)
  } finally {
    put(address, 'none')
  }
}

/** Loads modules, those that this kernel has. */
export function load(modules: Iterable<string>): void {
  for (const module of new Set(modules)) {
    try {
      execFileSync('modprobe', [module], { stdio: 'ignore' })
    } catch {
      // A module that this kernel lacks is a driver less to meet.
    }
  }
}

/**
 * Gives every endpoint its group: before 6.15 some kernels look for the IOMMU of a device only when a driver binds
 * (`lib/assess/no-iommu.ts`). A device keeps the group when the driver goes.
 */
export function meetIommu(used: ReadonlySet<string>): void {
  if (namesIn('/sys/kernel/iommu_groups').length === 0) return
  for (const address of namesIn(DEVICES)) {
    const has = (name: string) => existsSync(`${DEVICES}/${address}/${name}`)
    if (used.has(address) || has('iommu_group') || has('driver')) continue
    const { verdict, reason } = assess(new Host().snapshot({ around: [address] }), address)
    meetings.push({ address, verdict, reason, bound: put(address, 'vfio-pci') === 'vfio-pci' })
    put(address, 'none')
  }
}

/** What was predicted of functions that had no group, and whether vfio-pci took them. */
export const meetings: Meeting[] = []

export interface Meeting extends Pick<Assessment, 'address' | 'verdict' | 'reason'> {
  readonly bound: boolean
}

/** Functions that this guest lives on: what is mounted, and where it talks to the one who started it. */
export function inUse(): Set<string> {
  const paths: string[] = []
  for (const line of readFileSync('/proc/mounts', 'utf8').split('\n')) {
    const [source = ''] = line.split(' ')
    paths.push(...(source.startsWith('/dev/') ? blockDevice(source) : channelsOf(source)))
  }
  for (const name of namesIn('/sys/class/virtio-ports')) paths.push(`/sys/class/virtio-ports/${name}`)
  for (const name of namesIn('/sys/class/tty')) {
    if (name.startsWith('hvc')) paths.push(`/sys/class/tty/${name}`)
  }
  for (const name of namesIn('/sys/class/iommu')) paths.push(`/sys/class/iommu/${name}`)
  const used = new Set<string>()
  for (const path of paths) {
    // The whole way up: a bridge above what is in use must stay too.
    for (const part of realpathSync(path).split('/')) if (isPresent(part)) used.add(part)
  }
  return used
}

function blockDevice(node: string): string[] {
  const { rdev } = statSync(node)
  const path = `/sys/dev/block/${Math.floor(rdev / 256)}:${rdev % 256}`
  return existsSync(path) ? [path] : []
}

/** The virtio devices that carry a 9p file system of this tag. */
function channelsOf(tag: string): string[] {
  const driver = '/sys/bus/virtio/drivers/9pnet_virtio'
  return namesIn(driver)
    .filter((name) => existsSync(`${driver}/${name}/mount_tag`))
    .map((name) => `${driver}/${name}`)
    .filter((path) => readFileSync(`${path}/mount_tag`, 'utf8').replace(/[\0\n]+$/, '') === tag)
}

const namesIn = (directory: string) => (existsSync(directory) ? readdirSync(directory) : [])
