import { join } from 'node:path'
import { type AssignOptions, Host, type Plan, type PlanOptions, planAssignment } from 'vfio'
import type { DeviceDescription, HostDescription, HostTrees } from '../fixtures/host.js'
import { makeKernelHost, photograph, type SimulatedKernel } from './assign-kernel.js'

const port = (address: string, secondaryBus: number, group: number): DeviceDescription => ({
  address,
  class: 0x060400,
  headerType: 'bridge',
  driver: 'pcieport',
  secondaryBus,
  group,
  capabilities: [{ kind: 'pcie', type: 'root-port' }],
})

/** On a device of VFIO's this would say that somebody has it open. */
const NOT_ENABLED = { enable: '0\n' }

const FLR = [{ kind: 'pcie', flr: true }] as const

/** A device alone in its group, with a driver and a function reset. */
export const SINGLE: HostDescription = {
  devices: [
    port('0000:00:01.0', 1, 1),
    {
      address: '0000:01:00.0',
      vendor: 0x144d,
      device: 0xa808,
      class: 0x010802,
      driver: 'nvme',
      group: 10,
      files: NOT_ENABLED,
      capabilities: FLR,
      resetMethod: 'flr bus',
    },
  ],
}

/** Three functions of one slot in one group: on the driver that matches, on one by override, on none. */
export const THREE: HostDescription = {
  devices: [
    port('0000:00:02.0', 2, 2),
    {
      address: '0000:02:00.0',
      vendor: 0x8086,
      device: 0x10d3,
      class: 0x020000,
      driver: 'e1000e',
      group: 20,
      multifunction: true,
      files: NOT_ENABLED,
    },
    {
      address: '0000:02:00.1',
      vendor: 0x1b36,
      device: 0x0010,
      class: 0x010802,
      driver: 'uio_pci_generic',
      driverOverride: 'uio_pci_generic',
      group: 20,
      multifunction: true,
      files: NOT_ENABLED,
    },
    { address: '0000:02:00.2', group: 20, multifunction: true, files: NOT_ENABLED },
  ],
}

/** The same card four times: one bound, two free, one that another driver is to have. */
export const TWINS: HostDescription = {
  devices: [
    ...['igb', undefined, 'igb', undefined].flatMap((driver, index): DeviceDescription[] => [
      port(`0000:00:0${3 + index}.0`, 3 + index, 3 + index),
      {
        address: `0000:0${3 + index}:00.0`,
        vendor: 0x8086,
        device: 0x1533,
        class: 0x020000,
        ...(driver && { driver }),
        ...(index === 3 && { driverOverride: 'pci-stub' }),
        group: 30 + index,
        files: NOT_ENABLED,
        capabilities: FLR,
        resetMethod: 'flr',
      },
    ]),
  ],
}

/** A case that is assigned: its host, what is asked for, and how. */
export interface Case {
  readonly name: string
  readonly host: HostDescription
  readonly addresses: readonly string[]
  readonly options: PlanOptions
}

export const CASES: readonly Case[] = [
  { name: 'a single device', host: SINGLE, addresses: ['0000:01:00.0'], options: {} },
  { name: 'a group of three', host: THREE, addresses: ['0000:02:00.0'], options: { group: true } },
  {
    name: 'ids that twins have too',
    host: TWINS,
    addresses: ['0000:03:00.0'],
    options: { ids: true, reset: 'before' },
  },
]

export const planOn = (trees: HostTrees, addresses: readonly string[], options: PlanOptions = {}): Plan =>
  planAssignment(new Host(trees).snapshot(), addresses, options)

/** The trees of a case, and its plan. */
export function prepare({ host, addresses, options }: Omit<Case, 'name'>): { trees: HostTrees; plan: Plan } {
  const trees = makeKernelHost(host)
  return { trees, plan: planOn(trees, addresses, options) }
}

/** The command line's and the library's options, with a kernel of the tests' own. */
export const using = (trees: HostTrees, kernel: SimulatedKernel, more: AssignOptions = {}) => ({
  journal: journalOf(trees),
  ...more,
  kernel,
})

/** Where a host of the tests has its journal: beside its trees, so that a photograph shows it. */
export const journalOf = ({ sysfs }: HostTrees) => join(sysfs, '..', 'journal')

export const photographOf = ({ sysfs }: HostTrees) => photograph(join(sysfs, '..'))
