import { existsSync, readdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { builtKernels } from '../lab/build.js'
import { findHost } from '../lab/hosts.js'
import { awaitsBuild } from '../lab/kernels.js'
import type { Kubelet } from '../lab/kubernetes.js'
import { nodeLines } from '../nodes.mjs'

export const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/**
 * What a step keeps busy: the host, or a guest. Two of the host and one guest run side by side on the two cores one may
 * expect.
 */
export type Lane = 'host' | 'lab'

export interface Step {
  /** What `npm test -- NAME` takes; `lab` stands for all that begin with `lab:`. */
  readonly name: string
  readonly lane: Lane
  /** The steps that have to have ended before; they run too. */
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
  /** Some of its tests, without `.test.ts`, in this order; left out: all of them by name. */
  readonly files?: readonly string[]
  /** For each test, at least: a limit is there to end a hang, and the machine may be busy. */
  readonly testSeconds: number
  /** For all of it, so that a hang ends. */
  readonly totalSeconds: number
  /** At full size (test/fixtures/size.ts). */
  readonly full?: boolean
  readonly sanitized?: boolean
  /** With the binary that the package brings, which another compiler made. */
  readonly shipped?: boolean
  /** A line of Node's releases other than the one that runs. */
  readonly node?: string
  /** With a containerd that knows CDI among its programs: fetched where none is installed. */
  readonly containerd?: true
  /** Built into the cache before: minutes of a processor. */
  readonly kubelet?: Kubelet
  /** `host`: one of scripts/lab/hosts.ts; left out: the default. */
  readonly guest?: { readonly host?: string; readonly kernel: string; readonly topology: Topology }
}

/** The files of scripts/lab/topologies/. */
export type Topology =
  | 'arm64'
  | 's390x'
  | 'default'
  | 'express'
  | 'disks'
  | 'hotplug'
  | 'hotplug-twice'
  | 'bridges'
  | 'desktop'
  | 'no-iommu'

export const topologyFile = (name: Topology) => join(ROOT, 'scripts/lab/topologies', `${name}.args`)

/** Tests of test/lab/ that need other devices than those of the default topology; a new test needs no entry. */
const ELSEWHERE: Partial<Record<Topology, readonly string[]>> = {
  disks: ['examples', 'shared'],
  hotplug: ['failing', 'list-watch', 'removal', 'run-removal'],
  arm64: ['once'],
  // A machine whose IOMMU is left off.
  'no-iommu': ['no-iommu', 'unprotected'],
}
/** Tests of what only the kernels of scripts/lab/build.ts have. */
const OF_BUILT: readonly string[] = ['iommufd-objects', 'mdev', 'selftests']
/** Tests of what only the soak installs. */
const OF_SOAK: readonly string[] = ['containers']
/** Tests of what is built from the source of Kubernetes. */
const OF_KUBELET: readonly string[] = ['kubelet']
/** They leave drivers loaded and devices moved, so they come last in their guest. */
const LAST: readonly string[] = ['assign', 'crash', 'run', 'run-kills', 'clients', 'agreement']

const testsOf = (directory: string) =>
  readdirSync(join(ROOT, 'test', directory))
    .filter((file) => file.endsWith('.test.ts'))
    .map((file) => file.slice(0, -'.test.ts'.length))
    .sort()

/**
 * A sanitizer has little to see in them, or the same many times: those that look at the host, and the sentence of each error. The
 * soak has the errors.
 */
const SEEN_ELSEWHERE: readonly string[] = ['look', 'look-faults', 'errors']

/** Those of the guests that drive devices through the addon: where a sanitizer of it has most to see. */
const DRIVING: readonly string[] = ['dma', 'features', 'irqs', 'kvm', 'regions', 'vfio-objects']

/** What no kernel of the lab answers differently, or takes long: on the oldest it is left to the soak. */
const SAME_EVERYWHERE: readonly string[] = [
  'cycles',
  'persist',
  'uses',
  'crash',
  'clients',
  'run',
  'run-kills',
]

/** Where descriptors, interrupts and memory go through the addon in ways that no simulated kernel of test/native/ has. */
const SANITIZED: readonly string[] = ['dma', 'irqs', 'vfio-objects']

const ORDINARY = testsOf('lab').filter(
  (name) =>
    ![LAST, OF_BUILT, OF_SOAK, OF_KUBELET, ...Object.values(ELSEWHERE)].some((names) => names.includes(name)),
)

/** What everything runs on. */
const { kernels } = findHost(undefined)
const [oldest = '', newest = ''] = [kernels.at(0), kernels.at(-1)]

/** Each kernel meets another line of Node; the one that is installed is on the host, and where a sanitizer is. */
const nodeOn = (kernel: string) => nodeLines[kernels.indexOf(kernel) % nodeLines.length]

// Of a test that hangs its own time tells; on a busy machine all of a suite takes three times as long as on a quiet one.
const onHost = (directory: string): Suite => ({ directory, testSeconds: 120, totalSeconds: 2400 })
const inGuest = (kernel: string, topology: Topology, files: readonly string[], host?: string): Suite => ({
  directory: 'lab',
  files,
  testSeconds: 300,
  totalSeconds: 3600,
  guest: { kernel, topology, ...(host !== undefined && { host }) },
})

const hostStep = (name: string, work: Command | Suite): Step => ({ name, lane: 'host', work })
const labStep = (name: string, work: Suite): Step => ({ name, lane: 'lab', work })
const sanitized = (step: Step & { work: Suite }): Step => ({
  ...step,
  after: ['asan:build'],
  work: { ...step.work, sanitized: true, testSeconds: 300, totalSeconds: 3600 },
})

const newestNode = nodeLines.slice(-1).map((node) => ({ node }))[0]

const ownLine = process.versions.node.slice(0, process.versions.node.indexOf('.'))

const onNode = (node: string, suite = 'unit') =>
  hostStep(`node-${node}:${suite}`, { ...onHost(suite), ...(node !== ownLine && { node }) })

/** The lines of Node that tests can run on: the one that is installed, and those in the cache. */
export const testedLines: readonly string[] = [ownLine, ...nodeLines.filter((line) => line !== ownLine)]

/** What `npm test -- --node LINE` runs: what there is of the library without a guest. */
export const stepsOnNode = (line: string): readonly Step[] =>
  ['unit', 'native'].map((suite) => onNode(line, suite))

/** On machines of other processors, whose emulation is slow: each object, the predictions, bind and release, the examples, once. */
const FOREIGN = ['regions', 'irqs', 'dma', 'vfio-objects', 'once', 'agreement']
const foreign = (host: string, topology: Topology, kernel = '6.12', files = FOREIGN): Suite =>
  inGuest(kernel, topology, files, host)
const foreignSteps: readonly Step[] = [
  labStep('lab:arm64', foreign('arm64', 'arm64')),
  // Only registers and memory go by the size of pages.
  labStep('lab:arm64-16k', foreign('arm64-16k', 'arm64', '6.12', ['regions', 'dma'])),
  labStep('lab:s390x', foreign('s390x', 's390x')),
]
/** The newer rules, under which groups are there from the start. */
const foreignSoakSteps: readonly Step[] = [
  ...['arm64', 'arm64-16k'].map((host) => labStep(`soak:lab:${host}:7.3`, foreign(host, 'arm64', '7.3'))),
  labStep('soak:lab:arm64-16k', foreign('arm64-16k', 'arm64')),
]

/** Everything that passes or fails on the host alone. */
const hostSteps: readonly Step[] = [
  hostStep('lint', { command: ['biome', 'check', '--colors=off', '.'] }),
  hostStep('types', {
    command: [
      ...['tsc', '-p', 'tsconfig.json', '--noEmit', '--emitDeclarationOnly', 'false', '--pretty', 'false'],
    ],
  }),
  ...['test', 'kubernetes'].map((name) =>
    hostStep(`types:${name}`, {
      command: ['tsc', '-p', `${name}/tsconfig.json`, '--noEmit', '--pretty', 'false'],
    }),
  ),
  ...['unit', 'cases', 'lifecycle', 'kubernetes', 'docs', 'browser', 'package'].map((name) =>
    hostStep(name, onHost(name)),
  ),
  // With a sanitizer it runs on the Node that is installed.
  hostStep('native', { ...onHost('native'), ...newestNode }),
  {
    name: 'shipped',
    lane: 'host',
    // Which packs, and so builds it.
    after: ['package'],
    work: { ...onHost('native'), files: ['lifetime', 'losses', 'regions'], shipped: true },
  },
  hostStep('asan:build', {
    command: ['cmake-js', 'compile', '-d', 'native', '-O', 'build/asan', '--CDVFIO_SANITIZE=ON', '-p', '2'],
  }),
  ...['native', 'lifecycle'].map((name) =>
    sanitized({
      name: `asan:${name}`,
      lane: 'host',
      work: { ...onHost(name), files: testsOf(name).filter((file) => !SEEN_ELSEWHERE.includes(file)) },
    }),
  ),
]

const examplesOn = (kernel: string) =>
  labStep(`lab:${kernel}:examples`, inGuest(kernel, 'disks', ELSEWHERE.disks ?? []))

/** On the kernels between the oldest and the newest, what drives a device through the library finds nothing of its own. */
const between = kernels.slice(1, -1)

const onKernel = (kernel: string, files: readonly string[]) => {
  const node = nodeOn(kernel)
  const suite = inGuest(kernel, 'default', files)
  return labStep(`lab:${kernel}`, node === undefined ? suite : { ...suite, node })
}

const withoutIommu = (kernel: string) =>
  labStep(`lab:${kernel}:no-iommu`, inGuest(kernel, 'no-iommu', ['no-iommu']))

/** What else is plugged in is predicted by the newest rules, and in the soak by the oldest. */
const predictionsOn = (kernel: string, topology: Topology) =>
  labStep(
    `lab:${kernel}:${topology}`,
    inGuest(kernel, topology, ['agreement', ...(ELSEWHERE[topology] ?? [])]),
  )

/**
 * Everything on the oldest and the newest kernel with the default topology, on those between what is predicted. What
 * takes longest comes first, so that all ends at about the same time.
 */
const labSteps: readonly Step[] = [
  onKernel(newest, [...ORDINARY, ...LAST]),
  onKernel(
    oldest,
    [...ORDINARY, ...LAST].filter((name) => !SAME_EVERYWHERE.includes(name)),
  ),
  sanitized({
    name: 'asan:lab',
    lane: 'lab',
    work: inGuest(newest, 'default', SANITIZED),
  }),
  ...between.map((kernel) => onKernel(kernel, ['agreement'])),
  examplesOn(newest),
  ...(['bridges', 'desktop', 'hotplug'] as const).map((topology) => predictionsOn(newest, topology)),
  withoutIommu(newest),
]

/** What makes a host another one: its IOMMU driver, and all that goes through it. Registers do not. */
const OBJECTS: readonly string[] = ['vfio-objects', 'isolation', 'irqs', 'dma']

/** What does DMA through VFIO, which QEMU's AMD-Vi translates on a host of its own (scripts/lab/hosts.ts). */
const WITH_DMA: readonly string[] = ['dma', 'cycles']
const possibleOn = (host: string | undefined, files: readonly string[]) =>
  host === 'amd' ? files.filter((name) => !WITH_DMA.includes(name)) : files

/** The other x86 hosts of scripts/lab/hosts.ts, and the newest kernel on the first: a part of what runs there. */
const otherSteps: readonly Step[] = [
  labStep('lab:amd', inGuest('6.12', 'default', possibleOn('amd', [...OBJECTS, 'once', 'agreement']), 'amd')),
  // What maps memory is its own; interrupts and the command line are the soak's.
  labStep(
    'lab:virtio',
    inGuest('6.12', 'default', ['vfio-objects', 'isolation', 'dma', 'agreement'], 'virtio'),
  ),
  labStep('lab:amd-dma', inGuest('6.12', 'default', ['dma'], 'amd-dma')),
  // Between 6.12 and 7.0 no rule changed: 6.18 is the soak's, and so is the default topology on 7.3, which `iommufd` is too. Since
  // 7.0 a slot of pciehp covers its whole bus.
  labStep('lab:7.3:hotplug', inGuest('7.3', 'hotplug', ['agreement'])),
]

/** What else opens devices: on a kernel that has more than one way to, over each of them. */
const BY_CDEV: readonly string[] = ['cycles', 'features', 'kvm', 'regions']

/** By cdev, and by the container that iommufd provides: each object, the predictions, the kernel's own tests. */
const iommufdSteps: readonly Step[] = [
  labStep(
    'lab:iommufd',
    inGuest('iommufd', 'default', [...OBJECTS, ...BY_CDEV, ...OF_BUILT, 'once', 'run', 'agreement']),
  ),
  labStep('lab:iommufd:shared', inGuest('iommufd', 'disks', ['shared'])),
  labStep('lab:iommufd:hotplug', inGuest('iommufd', 'hotplug-twice', ELSEWHERE.hotplug ?? [])),
  labStep(
    'lab:iommufd-container',
    // Registers, features and interrupts do not go by who maps memory; the soak runs all.
    inGuest('iommufd-container', 'default', ['vfio-objects', 'isolation', 'dma', 'agreement']),
  ),
]

/** All of it, on each of these and their kernels. */
const otherSoakSteps: readonly Step[] = [
  ...['6.18', '7.3', ...builtKernels].map((kernel) => ({ name: `intel:${kernel}`, host: undefined, kernel })),
  ...['amd', 'virtio'].flatMap((host) =>
    findHost(host).kernels.map((kernel) => ({ name: `${host}:${kernel}`, host, kernel })),
  ),
].flatMap(({ name, host, kernel }) => [
  labStep(
    `soak:lab:${name}`,
    inGuest(
      kernel,
      host === 'virtio' ? 'express' : 'default',
      possibleOn(host, [...ORDINARY, ...(builtKernels.includes(kernel) ? OF_BUILT : []), ...LAST]),
      host,
    ),
  ),
  // The disks of the examples are behind bridges.
  ...(host === 'amd'
    ? [labStep(`soak:lab:amd-dma:${kernel}`, inGuest(kernel, 'default', WITH_DMA, 'amd-dma'))]
    : [labStep(`soak:lab:${name}:examples`, inGuest(kernel, 'disks', ELSEWHERE.disks ?? [], host))]),
])

const full = (step: Step & { work: Suite }): Step => ({
  ...step,
  work: { ...step.work, full: true, testSeconds: 3600, totalSeconds: 4 * 3600 },
})

/**
 * What `npm run soak` runs, and `npm test` only by name: what gets better with time, at its full size; what other steps
 * prove in part; and the unit suite on each line of Node.
 */
const soakSteps: readonly Step[] = [
  // Debian builds no kernel with the no-IOMMU mode.
  labStep('soak:lab:iommufd:no-iommu', inGuest('iommufd', 'no-iommu', ['unprotected'])),
  ...otherSoakSteps,
  ...[newest, 'iommufd'].map((kernel) =>
    labStep(`soak:lab:${kernel}:containers`, { ...inGuest(kernel, 'default', OF_SOAK), containerd: true }),
  ),
  labStep('soak:lab:iommufd:hotplug', inGuest('iommufd', 'hotplug-twice', ['agreement'])),
  ...foreignSoakSteps,
  labStep('soak:kubelet', { ...inGuest(newest, 'hotplug', OF_KUBELET), kubelet: 'kubelet' }),
  // Ten minutes in which nothing happens, what they take, and what memory.
  full({ name: 'soak:idle', lane: 'host', work: { ...onHost('kubernetes'), files: ['idle'] } }),
  hostStep('soak:go-kubelet', { ...onHost('kubernetes'), files: ['go-kubelet'], kubelet: 'go-kubelet' }),
  ...[
    ...[oldest, ...between].map((kernel) => onKernel(kernel, [...ORDINARY, ...LAST])),
    ...kernels.slice(0, -1).map(examplesOn),
    ...(['bridges', 'desktop', 'hotplug'] as const).map((topology) => predictionsOn(oldest, topology)),
    withoutIommu(oldest),
  ].map((step) => ({ ...step, name: `soak:${step.name}` })),
  full({ name: 'soak:fuzz', lane: 'host', work: { ...onHost('native'), files: ['fuzz', 'irq-model'] } }),
  full(
    sanitized({
      name: 'soak:asan:fuzz',
      lane: 'host',
      work: { ...onHost('native'), files: ['fuzz', 'irq-model', 'errors'] },
    }) as Step & { work: Suite },
  ),
  // The container image of the device plugin: built, and started as its pod says.
  hostStep('soak:image', { ...onHost('image'), testSeconds: 1800, totalSeconds: 3600 }),
  ...nodeLines
    .map((line) => onNode(line) as Step & { work: Suite })
    .map((step) => full({ ...step, name: `soak:${step.name}` })),
  ...kernels.flatMap((kernel) =>
    (
      [
        ['cycles', 'cycles'],
        ['rounds', 'assign', 'crash'],
        ['mappings', 'dma'],
      ] as const
    ).map(([name, ...files]) =>
      full({ name: `soak:${kernel}:${name}`, lane: 'lab', work: inGuest(kernel, 'default', files) }),
    ),
  ),
  ...[newest, 'iommufd'].map((kernel) =>
    full({ name: `soak:run:${kernel}`, lane: 'lab', work: inGuest(kernel, 'default', ['run-kills']) }),
  ),
  sanitized({
    name: 'soak:asan:lab',
    lane: 'lab',
    work: inGuest(newest, 'default', DRIVING),
  }),
  full(
    sanitized({
      name: 'soak:asan:cycles',
      lane: 'lab',
      work: inGuest(newest, 'default', ['cycles']),
    }) as Step & { work: Suite },
  ),
]

/** All that there is, in the order in which each lane takes it. */
export const steps: readonly Step[] = [
  ...hostSteps,
  ...iommufdSteps,
  ...labSteps,
  ...otherSteps,
  ...foreignSteps,
  ...soakSteps,
]
/** What `npm test` runs without names. */
export const usualSteps: readonly Step[] = [
  ...hostSteps,
  ...iommufdSteps,
  ...labSteps,
  ...otherSteps,
  ...foreignSteps,
]

/** Why a step is left out unless somebody asks for it by name: building its kernel would take longer than all the rest; else null. */
export const whyLeftOut = ({ work }: Step): string | null =>
  'guest' in work && work.guest !== undefined ? awaitsBuild(work.guest.kernel) : null

/** The compiled tests of a suite, as a path that is the same in a guest. */
export function compiled(suite: Suite): string {
  return join(ROOT, 'build/ts/test', suite.directory)
}

/** Why a suite cannot run at all, or null. */
export function emptiness(suite: Suite): string | null {
  const directory = compiled(suite)
  return existsSync(directory) ? null : `there is no test in ${relative(ROOT, directory)}`
}

/** The names of a suite's tests. */
export const testsIn = ({ directory, files }: Suite): readonly string[] => files ?? testsOf(directory)

/** The source of one of them, from the root. */
export const sourceOf = ({ directory }: Suite, name: string) => `test/${directory}/${name}.test.ts`
