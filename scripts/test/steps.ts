import { existsSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { kernelSeries } from '../lab/kernels.js'

export const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/**
 * Steps of one lane run one after the other; the lanes run side by side, one for each of the two cores one may expect.
 */
export type Lane = 'host' | 'lab'

export interface Step {
  /** What `npm test -- NAME` takes; `lab` stands for all that begin with `lab:`. */
  readonly name: string
  readonly lane: Lane
  /** The steps that have to have ended before, when they run at all. */
  readonly after?: readonly string[]
  /** A command that passes or fails as a whole, or a directory of tests. */
  readonly work: Command | Suite
}

export interface Command {
  readonly command: readonly string[]
}

export interface Suite {
  /** Below test/. */
  readonly directory: string
  /** Only those of its tests whose names begin with one of these, or with `!` before them with none: `!agreement,vfs`. */
  readonly files?: string
  readonly testSeconds: number
  /** For all of it, so that a hang ends. */
  readonly totalSeconds: number
  readonly sanitized?: boolean
  readonly guest?: { readonly kernel: string; readonly topology: string; readonly monitor?: boolean }
}

const topologyFile = (name: string) => join(ROOT, 'scripts/lab/topologies', `${name}.args`)

const [oldest = '', newest = ''] = [kernelSeries.at(0), kernelSeries.at(-1)]

interface LabRun {
  readonly name: string
  readonly kernel: string
  readonly topology: string
  readonly files?: string
  readonly monitor?: boolean
}

/** Leave drivers loaded and devices moved, so each gets a guest of its own. */
const MOVING = ['agreement', 'assign']
/** Drivers in user space, on disks whose content is known. */
const DRIVING = 'examples'
/** Needs slots, and QEMU's monitor to unplug what is in them. */
const UNPLUGGING = 'removal'
/** Likewise, on devices that can be broken. */
const BREAKING = 'failing'
/** Needs a machine whose IOMMU is left off. */
const UNPROTECTED = 'no-iommu'
const REST = `!${[...MOVING, DRIVING, UNPLUGGING, BREAKING, UNPROTECTED].join(',')}`

/**
 * Everything on every kernel with the default topology; on the other topologies the predictions alone, once by the
 * oldest and once by the newest rules.
 */
const labRuns: readonly LabRun[] = [
  ...kernelSeries.flatMap((kernel) => [
    { name: `lab:${kernel}`, kernel, topology: topologyFile('default'), files: REST },
    ...MOVING.map((files) => ({
      name: `lab:${kernel}:${files}`,
      kernel,
      topology: topologyFile('default'),
      files,
    })),
    { name: `lab:${kernel}:${DRIVING}`, kernel, topology: topologyFile('disks'), files: DRIVING },
  ]),
  ...[oldest, newest].flatMap((kernel) =>
    (
      [
        [UNPLUGGING, 'hotplug'],
        [BREAKING, 'failing'],
      ] as const
    ).map(([files, topology]) => ({
      name: `lab:${kernel}:${files}`,
      kernel,
      topology: topologyFile(topology),
      files,
      monitor: true,
    })),
  ),
  ...[oldest, newest].map((kernel) => ({
    name: `lab:${kernel}:${UNPROTECTED}`,
    kernel,
    topology: topologyFile('no-iommu'),
    files: UNPROTECTED,
  })),
  ...['hotplug', 'nested', 'desktop', 'links'].flatMap((topology) =>
    [oldest, newest].map((kernel) => ({
      name: `lab:${kernel}:${topology}`,
      kernel,
      topology: topologyFile(topology),
      files: 'agreement',
    })),
  ),
]

const onHost = (directory: string): Suite => ({ directory, testSeconds: 20, totalSeconds: 600 })
const inGuest = (kernel: string, topology: string, monitor = false): Suite => ({
  directory: 'lab',
  testSeconds: 300,
  totalSeconds: 1800,
  guest: { kernel, topology, monitor },
})

const ASAN_BUILD = [
  'cmake-js',
  'compile',
  '-d',
  'native',
  '-O',
  'build/asan',
  '--CDVFIO_SANITIZE=ON',
  '-p',
  '2',
]

/** What takes minutes comes first, so that both lanes end at about the same time. */
const isLong = ({ topology, monitor }: LabRun) =>
  monitor !== true && ['default', 'disks'].some((name) => topology === topologyFile(name))

const labStep = ({ name, kernel, topology, files, monitor }: LabRun): Step => ({
  name,
  lane: 'lab',
  work: { ...inGuest(kernel, topology, monitor), ...(files !== undefined && { files }) },
})

/** All that `npm test` runs, in this order within a lane. */
export const steps: readonly Step[] = [
  { name: 'lint', lane: 'host', work: { command: ['biome', 'check', '--colors=off', '.'] } },
  {
    name: 'types',
    lane: 'host',
    work: {
      command: [
        'tsc',
        '-p',
        'tsconfig.json',
        '--noEmit',
        '--emitDeclarationOnly',
        'false',
        '--pretty',
        'false',
      ],
    },
  },
  {
    name: 'types:test',
    lane: 'host',
    work: { command: ['tsc', '-p', 'test/tsconfig.json', '--noEmit', '--pretty', 'false'] },
  },
  ...['unit', 'cases', 'native', 'lifecycle', 'package'].map(
    (directory): Step => ({ name: directory, lane: 'host', work: onHost(directory) }),
  ),
  { name: 'asan:build', lane: 'host', work: { command: ASAN_BUILD } },
  ...['native', 'lifecycle'].map(
    (directory): Step => ({
      name: `asan:${directory}`,
      lane: 'host',
      after: ['asan:build'],
      work: { ...onHost(directory), testSeconds: 120, totalSeconds: 1200, sanitized: true },
    }),
  ),
  ...labRuns.filter(isLong).map(labStep),
  {
    name: 'asan:lab',
    lane: 'lab',
    after: ['asan:build'],
    work: { ...inGuest(newest, topologyFile('default')), files: REST, sanitized: true },
  },
  ...labRuns.filter((run) => !isLong(run)).map(labStep),
]

/** The compiled tests of a suite, as a path that is the same in a guest. */
export function compiled(suite: Suite): string {
  return join(ROOT, 'build/ts/test', suite.directory)
}

/** Why a suite cannot run at all, or null. */
export function emptiness(suite: Suite): string | null {
  const directory = compiled(suite)
  return existsSync(directory) ? null : `there is no test in ${relative(ROOT, directory)}`
}
