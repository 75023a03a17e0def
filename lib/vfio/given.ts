import { closeSync } from 'node:fs'
import { VfioError } from '../errors.js'
import { keepAlive } from '../native/alive.js'
import { parseName } from '../sysfs/address.js'
import { checkOptions } from './arguments.js'
import { VfioDevice } from './device/device.js'
import { Iommufd } from './iommu/iommufd.js'
import { closeAfter, type OpenedDevices, type OpenOptions, openDevices, together } from './open.js'

/** An open file that was given to this program when it was started. */
export interface GivenDescriptor {
  /** What it is called by who gave it; `unknown` where that did not say. */
  readonly name: string
  readonly fd: number
}

type Environment = Record<string, string | undefined>

const FIRST = 3
const VARIABLES = ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES', 'LISTEN_PIDFDID']

/**
 * The descriptors that this program was given when it was started (`LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`, as in
 * `sd_listen_fds(3)`), from 3 on: with `vfio run` they are `iommufd` and, for each device, `vfio-0000_59_00.0`, since a colon ends a
 * name. They belong to the caller then. The variables are removed, so that they are found once and no child takes them for its own; none where they
 * are for another process.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` where the variables contradict each other
 */
export function listenDescriptors(environment: Environment = process.env): readonly GivenDescriptor[] {
  const { LISTEN_PID: pid, LISTEN_FDS: count = '', LISTEN_FDNAMES: names } = environment
  if (pid === undefined || Number(pid) !== process.pid) return []
  for (const name of VARIABLES) delete environment[name]
  const total = /^\d{1,4}$/.test(count) ? Number(count) : -1
  if (total < 0)
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      `LISTEN_FDS is no number of descriptors: ${JSON.stringify(count)}`,
    )
  const list = names === undefined ? Array.from({ length: total }, () => 'unknown') : namesIn(names)
  if (list.length !== total)
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      `LISTEN_FDNAMES has ${list.length} names for ${total} descriptors: ${JSON.stringify(names)}`,
    )
  return list.map((name, i) => ({ name, fd: FIRST + i }))
}

/** Names are apart by colons; somebody else's may have addresses with colons in them. */
const NAME = /vfio-[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7](?=:|$)|[^:]*/giy

function namesIn(text: string): string[] {
  const names: string[] = []
  for (let at = 0; at <= text.length; at += 1) {
    NAME.lastIndex = at
    const [name = ''] = NAME.exec(text) ?? []
    names.push(name)
    at += name.length
  }
  return names
}

const DEVICE = /^vfio-(.+)$/

/**
 * Opens the devices that `vfio run` has given to this program, into one address space: by the descriptors that it left, or by the
 * addresses in `VFIO_ADDRESSES` where it has granted their groups. **Opening resets them.**
 * @throws VfioError `ERR_VFIO_NO_DEVICE` where nothing was given; else as {@link openDevices}
 */
export async function openGivenDevices(
  options: Pick<OpenOptions, 'signal' | 'vfToken'> = {},
): Promise<OpenedDevices> {
  checkOptions(options)
  const given = listenDescriptors()
  const devices = given.flatMap(({ name, fd }) => {
    const [, address] = DEVICE.exec(name) ?? []
    return address === undefined ? [] : [{ fd, address: parseName(address.replaceAll('_', ':')) }]
  })
  if (devices.length > 0) return await fromDescriptors(given, devices, options)
  const addresses = (process.env.VFIO_ADDRESSES ?? '').split(/[\s,]+/).filter((address) => address !== '')
  if (addresses.length > 0) return await openDevices(addresses, options)
  throw new VfioError('ERR_VFIO_NO_DEVICE', whyNone())
}

function whyNone(): string {
  const { LISTEN_PID: pid } = process.env
  return pid === undefined
    ? 'no device was given to this program: start it with "vfio run ADDRESS -- COMMAND"'
    : `the devices were given to process ${pid}, and this is ${process.pid}: let the command of "vfio run" be the program itself, or exec it`
}

interface Named {
  readonly fd: number
  readonly address: string
}

async function fromDescriptors(
  given: readonly GivenDescriptor[],
  devices: readonly Named[],
  options: Pick<OpenOptions, 'signal' | 'vfToken'>,
): Promise<OpenedDevices> {
  const of = given.find(({ name }) => name === 'iommufd')
  // Those that this program goes on with are its own copies.
  const theirs = new Set([...devices.map(({ fd }) => fd), ...(of ? [of.fd] : [])])
  let iommufd: Iommufd | undefined
  try {
    iommufd = of === undefined ? Iommufd.open() : Iommufd.fromDescriptor(of.fd)
    const ioas = iommufd.allocateIoas()
    const opened: VfioDevice[] = []
    for (const { fd, address } of devices)
      opened.push(await VfioDevice.fromDescriptor(fd, { ...options, address, iommufd }))
    for (const device of opened) await device.attach(ioas, options)
    return together({ backend: 'iommufd', devices: opened, iommufd, ioas })
  } catch (error) {
    if (iommufd) await keepAlive(closeAfter([iommufd], options.signal)).catch(() => {})
    throw error
  } finally {
    for (const fd of theirs) closeSync(fd)
  }
}
