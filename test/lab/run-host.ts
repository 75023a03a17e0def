import assert from 'node:assert/strict'
import { closeSync, fsyncSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { Host, type Plan, planAssignment } from 'vfio'
import { hostState, spare } from './assign-host.js'
import { driverOf } from './binding.js'
import { bootDisk, EXIT } from './boot-sector.js'

/** What the disk has to say. */
export const TEXT = 'this stands on the disk that the guest was given\n'

/** A machine that boots from what it is given, and says what it reads there. */
export const BOOTS = [
  ...['qemu-system-x86_64', '-M', 'q35', '-nodefaults', '-display', 'none', '-accel', 'tcg', '-m', '64'],
  ...['-no-reboot', '-serial', 'stdio', ...EXIT],
]

/** One that has the device open, and does nothing until it is ended. */
export const HOLDS = [...BOOTS.slice(0, 10), '-S', '{qemu}']

/** A disk alone in its group with the host's driver, and how to take it. */
export function disk(fits: (address: string) => boolean = () => true): Plan {
  const seen = new Host().snapshot()
  const found = spare(seen)
    .groups.filter(([address = '', ...others]) => others.length === 0 && driverOf(address) === 'nvme')
    .find(([address = '']) => seen.device(address).sriov === null && fits(address))
  assert(found, 'the topology has a disk alone in its group')
  return planAssignment(seen, found)
}

/** Lets a disk of the host be one that a PC boots from. */
export function makeBootable(address: string): void {
  const [controller = ''] = readdirSync(`/sys/bus/pci/devices/${address}/nvme`)
  const file = openSync(`/dev/${controller}n1`, 'r+')
  writeSync(file, bootDisk(TEXT))
  fsyncSync(file)
  closeSync(file)
}

/** Waits until the host is as it was: by whatever process makes it so. */
export async function asBefore(before: Readonly<Record<string, string>>): Promise<void> {
  const wanted = JSON.stringify(before)
  while (JSON.stringify(hostState()) !== wanted) await setTimeout(50)
}

/** Waits until a device is open in a program: VFIO enables it then. By its own node it is open without that, from the start. */
export async function opened(address: string): Promise<void> {
  while (Number(readFileSync(`/sys/bus/pci/devices/${address}/enable`, 'utf8')) === 0) await setTimeout(50)
}
