import { closeSync, constants, lstatSync, openSync, readdirSync } from 'node:fs'
import { VfioError } from '../errors.js'
import { readText } from '../sysfs/files.js'

/**
 * Has somebody a group of VFIO, or a device of it, open? Asks without touching a device: a group opens once.
 * @param device a device of the group that is bound to VFIO, in sysfs
 * @throws VfioError `ERR_VFIO_IN_USE` where that cannot be told: unbinding what is open would hang
 */
export function isGroupOpen(group: number, device: string): boolean {
  const sysfs = device.slice(0, device.indexOf('/bus/pci/devices/'))
  // Without an IOMMU the group's node has another name.
  const nodes = [`${group}`, `noiommu-${group}`].filter((name) => groupsOf(sysfs, device).includes(name))
  // A kernel without groups opens devices alone, and opening one enables it.
  if (nodes.length === 0) return isEnabled(device)
  return nodes.some((name) => isNodeOpen(name, sysfs, device))
}

const nameOf = (device: string) => device.slice(device.lastIndexOf('/') + 1)

function unknown(device: string, why: string): VfioError {
  return new VfioError(
    'ERR_VFIO_IN_USE',
    `whether ${nameOf(device)} is open cannot be told (${why}), and unbinding what is open would hang: run this as root where the host's /dev and /sys are`,
  )
}

function groupsOf(sysfs: string, device: string): string[] {
  try {
    return readdirSync(`${sysfs}/class/vfio`)
  } catch (error) {
    const { code = String(error) } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return []
    throw unknown(device, `the groups of VFIO cannot be listed: ${code}`)
  }
}

function isEnabled(device: string): boolean {
  const count = readText(`${device}/enable`)
  if (count === null || !/^\d+$/.test(count)) throw unknown(device, 'its file "enable" cannot be read')
  return Number(count) > 0
}

function isNodeOpen(name: string, sysfs: string, device: string): boolean {
  const path = `/dev/vfio/${name}`
  try {
    // Another file of that name would answer for another group.
    const { rdev } = lstatSync(path)
    if (`${major(rdev)}:${minor(rdev)}` !== readText(`${sysfs}/class/vfio/${name}/dev`))
      throw unknown(device, `${path} is not the node of its group`)
    closeSync(openSync(path, constants.O_RDWR))
    return false
  } catch (error) {
    if (error instanceof VfioError) throw error
    const { code = String(error) } = error as NodeJS.ErrnoException
    if (code === 'EBUSY') return true
    throw unknown(device, `${path}: ${code}`)
  }
}

// How glibc's gnu_dev_major() and gnu_dev_minor() divide the number of a device, below 2³².
const major = (device: number) => (device >>> 8) & 0xfff
const minor = (device: number) => (device & 0xff) | ((device >>> 12) & 0xfff00)
