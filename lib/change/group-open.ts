import { statSync } from 'node:fs'
import { VfioError, VfioSystemError } from '../errors.js'
import { binding } from '../native/load.js'
import { call } from '../native/translate.js'
import { isAddress } from '../sysfs/address.js'
import { exists, listNames, readText } from '../sysfs/files.js'
import { lookFailed } from '../sysfs/unseen.js'
import { readProcesses } from '../sysfs/use-processes.js'
import { numberOf } from './device-number.js'

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
 * @throws VfioError `ERR_VFIO_BAD_NODE` where the node to ask by is not in sight, or is that of another device
 * @throws VfioSystemError where the kernel does not tell
 */
export function isGroupOpen(group: number, trees: Trees = HERE): boolean {
  const { sysfs } = trees
  // Without an IOMMU the group's file has another name. What the kernel has no group of is not bound to VFIO.
  const names = [`${group}`, `noiommu-${group}`].filter((name) => exists(`${sysfs}/class/vfio/${name}`))
  if (names.length > 0) return names.some((name) => isBusy(group, name, trees))
  return exists(`${sysfs}/class/vfio`) ? false : isOpenByDevice(group, trees)
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
    return facts.isCharacterDevice() ? numberOf(facts.rdev) : null
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
function isOpenByDevice(group: number, { sysfs, proc }: Trees): boolean {
  const wanted = listNames(`${sysfs}/kernel/iommu_groups/${group}/devices`)
    .filter(isAddress)
    .flatMap((address) => {
      const root = `${sysfs}/bus/pci/devices/${address}/vfio-dev`
      return listNames(root).map((name) => ({
        node: `vfio/devices/${name}`,
        number: `c${readText(`${root}/${name}/dev`)}`,
        address,
      }))
    })
  if (wanted.length === 0) return false
  const isEnabled = wanted.some(
    ({ address }) => Number(readText(`${sysfs}/bus/pci/devices/${address}/enable`) ?? 0) > 0,
  )
  // VFIO enables what is opened and bound; before that it is a node that a process has open.
  if (isEnabled) return true
  const { open, complete } = readProcesses(proc, wanted)
  if (open.some(({ node }) => wanted.some((one) => one.node === node))) return true
  if (complete === true) return false
  throw new VfioError(
    'ERR_VFIO_BAD_NODE',
    `whether a device of group ${group} is open in a program cannot be told, since not all processes are in sight: run this as root, in the PID namespace of the host`,
  )
}
