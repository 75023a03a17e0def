import { statSync } from 'node:fs'
import { VfioError, VfioSystemError } from '../errors.js'
import { binding } from '../native/load.js'
import { call } from '../native/translate.js'
import { directoryOf, isAddress, isUuid } from '../sysfs/address.js'
import { asBytes, decodeField } from '../sysfs/bytes.js'
import { deviceNumber } from '../sysfs/device-number.js'
import { exists, listNames, readBytes, readText } from '../sysfs/files.js'
import { lookFailed } from '../sysfs/unseen.js'
import { readProcesses, type WantedNode } from '../sysfs/use-processes.js'

/** The trees of the host that is asked about. */
interface Trees {
  readonly sysfs: string
  readonly dev: string
  readonly proc: string
}

const HERE: Trees = { sysfs: '/sys', dev: '/dev', proc: '/proc' }

/**
 * Does somebody have this group, or a device of it, open? Asks without touching a device. Unbinding a device that is open
 * hangs, so that what cannot be told is no "no".
 * @throws VfioError `ERR_VFIO_BAD_NODE` where the node to ask by is not in sight, or is that of another device; where devices
 * have nodes of their own and not all processes are in sight
 * @throws VfioSystemError where the kernel does not tell
 */
export function isGroupOpen(group: number, trees: Trees = HERE): boolean {
  const { sysfs } = trees
  // Without an IOMMU the group's file has another name. What the kernel has no group of is not bound to VFIO.
  const names = [`${group}`, `noiommu-${group}`].filter((name) => exists(`${sysfs}/class/vfio/${name}`))
  if (names.length === 0) return exists(`${sysfs}/class/vfio`) ? false : isOpenByDevice(group, trees)
  // The kernel calls a group busy for a device's own node once that is bound to an iommufd, not when it is opened.
  return names.some((name) => isBusy(group, name, trees)) || isNodeOpen(group, nodesOf(group, trees), trees)
}

function isBusy(group: number, name: string, { sysfs, dev }: Trees): boolean {
  const path = `${dev}/vfio/${name}`
  const known = readText(`${sysfs}/class/vfio/${name}/dev`)
  const there = nodeNumber(path)
  if (known === null || there !== known) throw cannotTell(group, path, there)
  try {
    // That of this machine, whatever tree is looked at: a file in its place answers nothing.
    call(() => binding().Group.open(`/dev/vfio/${name}`).closeNow())
    return false
  } catch (error) {
    if (error instanceof VfioSystemError && error.code === 'EBUSY') return true
    throw error
  }
}

/** `major:minor` of the device behind a path; `null` where there is none. */
function nodeNumber(path: string): string | null {
  try {
    const facts = statSync(path)
    return facts.isCharacterDevice() ? deviceNumber(facts.rdev) : null
  } catch (error) {
    lookFailed('stat', -((error as NodeJS.ErrnoException).errno ?? 0), path)
    return null
  }
}

function cannotTell(group: number, path: string, there: string | null): VfioError {
  const what = there === null ? 'is not there' : `is another device (${there})`
  return new VfioError(
    'ERR_VFIO_BAD_NODE',
    `whether group ${group} is open in a program cannot be told, and unbinding a device that is open hangs: the kernel has the group, and ${path} ${what}; run this where the /dev of the host is in sight`,
  )
}

/** Kernels may have no groups in VFIO, only devices (`CONFIG_VFIO_GROUP`): who has those open is seen, or not known. */
function isOpenByDevice(group: number, trees: Trees): boolean {
  const nodes = nodesOf(group, trees)
  const isEnabled = nodes.some(
    ({ address }) => Number(readText(`${directoryOf(trees.sysfs, address)}/enable`) ?? 0) > 0,
  )
  // VFIO enables what is opened and bound; before that it is a node that a process has open.
  return isEnabled || isNodeOpen(group, nodes, trees)
}

/** A device's own node (`CONFIG_VFIO_DEVICE_CDEV`). */
interface DeviceNode extends WantedNode {
  readonly address: string
}

function nodesOf(group: number, { sysfs }: Trees): DeviceNode[] {
  const members = listNames(`${sysfs}/kernel/iommu_groups/${group}/devices`).filter(
    (name) => isAddress(name) || isUuid(name),
  )
  return members.flatMap((address) => {
    const root = `${directoryOf(sysfs, address)}/vfio-dev`
    return listNames(root).flatMap((name) => {
      // Since 6.1 VFIO has a directory for each device, and where these have nodes their numbers too.
      const number = readText(`${root}/${name}/dev`)
      return number === null ? [] : [{ node: `vfio/devices/${name}`, number: `c${number}`, address }]
    })
  })
}

/**
 * Has a process one of these open? An open node, bound or not, is what unbinding waits for, and the kernel has no question
 * that a node refuses for that: until it is bound to an iommufd any number of files may be open, the group is not busy, and
 * `enable` counts only what is bound. A bind to find out would reset the device. So the processes tell, or that nothing of
 * VFIO is open at all.
 */
function isNodeOpen(group: number, nodes: readonly DeviceNode[], trees: Trees): boolean {
  if (nodes.length === 0) return false
  for (const proc of processTables(trees)) {
    const { open, complete } = readProcesses(proc, nodes)
    if (open.some(({ node }) => nodes.some((one) => one.node === node))) return true
    if (complete === true) return false
  }
  if (isVfioUnused(trees)) return false
  throw new VfioError(
    'ERR_VFIO_BAD_NODE',
    `whether a device of group ${group} is open in a program cannot be told, since not all processes are in sight: run this as root, in the PID namespace of the host (--pid=host), or where the /proc of the host is mounted too`,
  )
}

/** The process table of this PID namespace, and others that are mounted in sight, like the host's in a container. */
function* processTables({ proc }: Trees): Iterable<string> {
  yield proc
  // A bind mount of a part of one has another root than `/`.
  const mounts = readBytes(`${proc}/self/mountinfo`)
  for (const line of mounts === null ? [] : asBytes(mounts).split('\n')) {
    const point = /^\d+ \d+ \d+:\d+ \/ (\S+) .* - proc /.exec(line)?.[1]
    if (point !== undefined && point !== proc) yield decodeField(point)
  }
}

/**
 * Is no node of VFIO open anywhere on this machine, in no namespace and not on its way between two programs? Each open node of a
 * group or device holds the module `vfio` twice (`cdev.owner`, `fops.owner`), and each module that rests on it once: those are
 * its holders. One reference more is a container (`fops.owner` alone), or since 6.10 the file system that all devices of VFIO
 * have their inodes in (`vfio_fs_type`). Where VFIO is built in there is no such count.
 */
function isVfioUnused({ sysfs }: Trees): boolean {
  const module = `${sysfs}/module/vfio`
  const count = readText(`${module}/refcnt`)
  const holders = listNames(`${module}/holders`).length
  // A device is bound, so that its driver's module is one of them at least.
  return count !== null && /^\d+$/.test(count) && holders > 0 && Number(count) - holders <= 1
}
