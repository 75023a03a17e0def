import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type * as Vfio from 'vfio'
import type { Binding } from '../../lib/native/binding.js'

/** The root of the package, wherever this test was compiled to. */
export const ROOT = dirname(createRequire(import.meta.url).resolve('vfio/package.json'))

/** The ioctls that the fake kernel is asked, as test/native/fake-vfio.c names them. */
export const IOCTL = {
  apiVersion: 0,
  checkExtension: 1,
  setIommu: 2,
  groupStatus: 3,
  setContainer: 4,
  unsetContainer: 5,
  openDevice: 6,
  deviceInfo: 7,
  regionInfo: 8,
  irqInfo: 9,
  setIrqs: 10,
  reset: 11,
  iommuInfo: '12c',
  hotResetInfo: 12,
  hotReset: 13,
  ioeventfd: 16,
  vfToken: '17.0',
  migration: '17.1',
  migrationState: '17.2',
  lowPowerEntry: '17.3',
  lowPowerWakeup: '17.4',
  lowPowerExit: '17.5',
  dmaLoggingStart: '17.6',
  dmaLoggingStop: '17.7',
  dmaLoggingReport: '17.8',
  migrationDataSize: '17.9',
  busMaster: '17.10',
  dmaBuf: '17.11',
  precopyInfoV2: '17.12',
  zpciError: '17.13',
  bindIommufd: 18,
  attachPt: 19,
  detachPt: 20,
  /** Of a file of migration data. */
  precopyInfo: 21,
  destroy: 'iommu.80',
  ioasAlloc: 'iommu.81',
  allowIovas: 'iommu.82',
  ioasCopy: 'iommu.83',
  iovaRanges: 'iommu.84',
  ioasMap: 'iommu.85',
  ioasUnmap: 'iommu.86',
  option: 'iommu.87',
  hwptAlloc: 'iommu.89',
  hwInfo: 'iommu.8a',
  setDirtyTracking: 'iommu.8b',
  getDirtyBitmap: 'iommu.8c',
  ioasMapFile: 'iommu.8f',
  changeProcess: 'iommu.92',
  noiommuPa: 'iommu.95',
  kvmCreate: 'kvm.e0',
  kvmAttribute: 'kvm.e1',
  mapDma: '13c',
  unmapDma: '14c',
  dirtyPages: '17c',
  // Calls of the C library on what it opened, and on memory of the program.
  read: 'read',
  write: 'write',
  mmap: 'mmap',
  memfd: 'memfd',
  /** Of a device. */
  close: 'close',
  fallocate: 'fallocate',
  madvise: 'madvise',
  mremap: 'mremap',
  // What the system says that its pages are, in bytes.
  pageSize: 'pagesize',
  // The same, where the addon calls them.
  eventfd: 'eventfd',
  epollCreate: 'epoll_create',
  epollCtl: 'epoll_ctl',
} as const

/** One answer of the fake kernel. The answers to one call come in turn, and the last one goes on. */
export interface FakeAnswer {
  call: keyof typeof IOCTL | `open:${string}`
  /**
   * What the call returns; negative: an errno; `fd`: a new device; `bus`: a bus error outside of the addon's memory;
   * `model`: what the model answers. `fallocate` that returns 1 takes no space, and says that it did.
   */
  returns?: number | 'fd' | 'bus' | 'model'
  /** A delay in milliseconds, or once a program calls `letGo()`. */
  when?: number | 'gate'
  bytes?: Uint8Array
}

/** Opening a device works. */
export const OPENS: FakeAnswer = { call: 'openDevice', returns: 'fd' }

/** What the model of the kernel is like (test/native/fake-vfio/model.h). */
export interface Machine {
  linux?: '5.10' | '6.6' | '6.12' | '6.18' | '7.3'
  /** How many vectors the device has of each kind. */
  intx?: number
  msi?: number
  msix?: number
  err?: number
  req?: number
  /** How many vectors of MSI and MSI-X the host has to give. */
  available?: number
  /** How many mappings a container takes. */
  mappings?: number
  pageSize?: number
  /** How many bytes an iommufd may lock. */
  locked?: number
  /** Who provides the container. */
  container?: 'type1' | 'iommufd'
}

/** What the model has. Eventfds are told by their number, -1 for none. */
export interface ModelState {
  /** How many of the failures that were asked for have not come. */
  pending: number
  model: {
    containers: { name: string; open: number; users: number; iommu: number; mappings: [string, number][] }[]
    groups: { name: string; open: number; users: number; inContainer: 0 | 1 }[]
    devices: {
      name: string
      open: number
      /** The index of INTx, MSI or MSI-X, whichever is enabled; else -1. */
      type: number
      contexts: number
      /** Those that have an eventfd, with it. */
      vectors: [number, number][]
      err: number
      req: number
      unmask: number
      masked: 0 | 1
      /** Of one by its own node that is bound; else 0. */
      devid: number
    }[]
    iommufds: {
      name: string
      open: number
      users: number
      objects: {
        id: number
        type: 'ioas' | 'hwpt' | 'device'
        mappings?: [string, number][]
        parent?: number
        attached?: number
      }[]
    }[]
  }
}

/** What a program in a child process gets. It must use nothing else from around it, save `assert`. */
export interface Program<Input> {
  vfio: typeof Vfio
  /** The addon itself, without the library over it. */
  addon: Binding
  input: Input
  /** What the fake kernel was asked so far, a line each: `begin 11 0000:01:00.0`, `end 11 …`, `close /dev/vfio/1`. */
  log(): string[]
  /** What interrupts and memory were asked, without the word `asked`: `10 flags 0x24 index 2 start 0 count 1 fds 25`. */
  asked(): string[]
  /** The memory behind what the fake kernel opened, as a path: `0000:01:00.0`, `/dev/vfio/1`. */
  memoryOf(name: string): string
  /** Waits until the log has such a line, `count` times. */
  logged(line: string, count?: number): Promise<void>
  /** Lets calls end that wait at the gate. */
  letGo(count?: number): void
  /** What the model has. */
  state(): ModelState
  /** Lets one call fail, after `skip` more of its kind; `*` stands for all opens, ioctls and what the addon does with eventfds. */
  failNext(call: FakeAnswer['call'] | '*', errno: number, skip?: number): void
  /** Takes that back where it has not come. */
  failNoMore(): void
  /** A group in a container with an IOMMU. */
  openGroup(number?: number): { container: Vfio.VfioContainer; group: Vfio.VfioGroup }
  /** What a promise was rejected with, or what a function threw. */
  failure(of: Promise<unknown> | (() => unknown)): Promise<Error & { code?: unknown }>
}

const PRELUDE = `
import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import * as modules from 'node:module'
import * as vfio from 'vfio'
const loadAddon = () => modules.createRequire(process.cwd() + '/')(process.env.VFIO_ADDON ?? './build/Release/vfio.node')
const script = process.env.FAKE_VFIO
const IOCTL = ${JSON.stringify(IOCTL)}
const log = () => fs.readFileSync(script + '.log', 'utf8').split('\\n').filter(Boolean)
const asked = () => log().filter((line) => line.startsWith('asked ')).map((line) => line.slice(6))
const memoryOf = (name) => {
  for (const fd of fs.readdirSync('/proc/self/fd')) {
    const path = '/proc/self/fd/' + fd
    try {
      if (fs.readlinkSync(path).startsWith('/memfd:fake-vfio:' + name + ' ')) return path
    } catch {}
  }
  throw new Error('there is no ' + name)
}
const logged = async (line, count = 1) => {
  while (log().filter((entry) => entry === line).length < count) await new Promise(setImmediate)
}
const letGo = (count = 1) => fs.writeFileSync(script + '.gate', 'x'.repeat(count))
const state = () => JSON.parse(fs.readFileSync('/dev/vfio/.state', 'utf8'))
const failNext = (call, errno, skip = 0) => {
  fs.readFileSync('/dev/vfio/.fail ' + (IOCTL[call] ?? call) + ' ' + errno + ' ' + skip)
}
const failNoMore = () => void fs.readFileSync('/dev/vfio/.fail')
// A group that is collected is closed, and with it goes what its container has mapped.
const groups = new WeakMap()
const openGroup = (number = 1) => {
  const container = vfio.VfioContainer.open()
  const group = vfio.VfioGroup.open(number)
  groups.set(container, group)
  group.setContainer(container)
  container.setIommu('type1v2')
  return { container, group }
}
const failure = async (of) => {
  try {
    await (typeof of === 'function' ? of() : of)
  } catch (error) {
    return error
  }
  assert.fail('it should have failed')
}
const input = JSON.parse(process.env.FAKE_VFIO_INPUT ?? 'null')
`

export interface Outcome {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

const DEADLINE_MS = 100_000

let shim: string | undefined

function shimPath(): string {
  if (!shim) {
    mkdirSync(join(ROOT, 'build/test'), { recursive: true })
    const output = join(ROOT, 'build/test/fake-vfio.so')
    // Put in its place whole: another suite may load it meanwhile.
    const scratch = `${output}.${process.pid}`
    execFileSync('cc', [
      '-shared',
      '-fPIC',
      '-O1',
      '-Wall',
      '-Wextra',
      '-o',
      scratch,
      join(ROOT, 'test/native/fake-vfio.c'),
      ...['model', 'irqs', 'type1', 'iommufd'].map((part) => join(ROOT, `test/native/fake-vfio/${part}.c`)),
      '-ldl',
      '-lpthread',
    ])
    renameSync(scratch, output)
    shim = output
  }
  return shim
}

function scriptOf(answers: readonly FakeAnswer[]): string {
  return answers
    .map(({ call, returns = 0, when = 'now', bytes }) => {
      const what = call.startsWith('open:') ? call : IOCTL[call as keyof typeof IOCTL]
      return `${what} ${returns} ${when} ${bytes?.length ? Buffer.from(bytes).toString('hex') : '-'}\n`
    })
    .join('')
}

function modelOf({ linux = '6.12', pageSize = 4096, ...machine }: Machine): string {
  const [major, minor] = linux.split('.').map(Number)
  const { intx = 1, msi = 4, msix = 16, err = 1, req = 1, available = 64, mappings = 65535 } = machine
  const { locked = 2 ** 30, container = 'type1' } = machine
  const compat = container === 'iommufd' ? 1 : 0
  const version = (major ?? 0) * 100 + (minor ?? 0)
  return [version, intx, msi, msix, err, req, available, mappings, pageSize, locked, compat].join(' ')
}

export interface FakeOptions<Input> {
  input?: Input
  /** Lets a model of the kernel answer what the script says nothing of. */
  machine?: Machine
  flags?: string[]
  /** What runs the source in place of the Node that runs the tests; it finds the package where its file is. */
  command?: (source: string) => readonly string[]
  /** Open files that the process gets as descriptors 3, 4, …, for the fake kernel to name. */
  descriptors?: number[]
  environment?: Record<string, string>
  /** In milliseconds. */
  deadline?: number
}

/** Runs the source of a module in a process whose kernel is the fake one. */
export async function runSource(
  source: string,
  answers: readonly FakeAnswer[],
  {
    input,
    machine,
    flags = [],
    command = (whole) => [process.execPath, ...flags, '--input-type=module', '-e', whole],
    descriptors = [],
    environment,
    deadline = DEADLINE_MS,
  }: FakeOptions<unknown> = {},
): Promise<Outcome> {
  const directory = mkdtempSync(join(tmpdir(), 'fake-vfio-'))
  try {
    const script = join(directory, 'script')
    writeFileSync(script, scriptOf(answers))
    const [program = '', ...args] = command(PRELUDE + source)
    const child = spawn(program, args, {
      cwd: ROOT,
      env: {
        ...process.env,
        ...environment,
        LD_PRELOAD: [process.env.LD_PRELOAD, shimPath()].filter(Boolean).join(':'),
        FAKE_VFIO: script,
        ...(machine && { FAKE_VFIO_MODEL: modelOf(machine) }),
        FAKE_VFIO_INPUT: JSON.stringify(input ?? null),
      },
      stdio: ['ignore', 'pipe', 'pipe', ...descriptors],
      // What hangs is ended and fails by its signal; hardly anything here takes a second.
      timeout: deadline,
      killSignal: 'SIGKILL',
    })
    let stdout = ''
    let stderr = ''
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
    })
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    const { code, signal } = await new Promise<Pick<Outcome, 'code' | 'signal'>>((resolve, reject) => {
      child.on('error', reject).on('close', (code, signal) => resolve({ code, signal }))
    })
    return { code, signal, stdout, stderr }
  } finally {
    rmSync(directory, { recursive: true })
  }
}

/** Runs a function in such a process and fails where it fails. See Program for what it may use. */
export async function withFake<Input = null>(
  answers: readonly FakeAnswer[],
  program: (given: Program<Input>) => unknown,
  options: FakeOptions<Input> = {},
): Promise<Outcome> {
  const source = `await (${program})({ vfio, get addon() { return loadAddon() }, input, log, asked, memoryOf, logged, letGo, state, failNext, failNoMore, openGroup, failure })`
  const outcome = await runSource(source, answers, options)
  assert.deepEqual({ code: outcome.code, signal: outcome.signal }, { code: 0, signal: null }, outcome.stderr)
  return outcome
}
