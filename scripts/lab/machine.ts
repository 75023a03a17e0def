import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { Duplex, type Readable, type Writable } from 'node:stream'
import type { Emulator } from './emulator.js'
import type { LabHost } from './hosts.js'
import { initramfsFor } from './initramfs.js'
import type { Kernel } from './kernels.js'
import { findProgram } from './programs.js'

export type Accelerator = 'kvm' | 'tcg'

export interface Streams {
  /** Null is an empty input. */
  readonly stdin: Readable | null
  readonly stdout: Writable
  readonly stderr: Writable
}

/** The terminal behind the streams, of which the job gets one of the same size. */
export interface Terminal {
  readonly rows: number
  readonly columns: number
  on(event: 'resize', listener: () => void): unknown
  off(event: 'resize', listener: () => void): unknown
}

export interface MachineOptions {
  readonly host: LabHost
  readonly emulator: Emulator
  /** The root file system, on this machine. */
  readonly root: string
  /** Directories of this machine that are in the guest too, where its root file system is another. */
  readonly shared: readonly string[]
  readonly kernel: Kernel
  readonly accelerator: Accelerator
  /** QEMU arguments of the devices under test. */
  readonly devices: readonly string[]
  readonly vfio: boolean
  /** Whether the guest gets QEMU's own monitor (QMP) on /dev/virtio-ports/lab.monitor. */
  readonly monitor: boolean
  /** A script for /bin/sh. */
  readonly job: string
  readonly streams: Streams
  readonly terminal: Terminal | null
  readonly bootSeconds: number
  /** Counted from the moment the guest is up. */
  readonly timeoutSeconds: number | undefined
  readonly signal: AbortSignal | undefined
}

export type Outcome =
  | { readonly kind: 'exited'; readonly status: number }
  | { readonly kind: 'timeout' | 'boot-timeout' | 'died' | 'aborted' }
  /** QEMU itself gave up: a device that it does not know, a file that is not there. */
  | { readonly kind: 'refused' }

export interface MachineResult {
  readonly outcome: Outcome
  /** 0 when it never came up. */
  readonly bootSeconds: number
  /** Processor time of QEMU: what the guest took, however busy the machine was. */
  readonly cpuSeconds: number
  /** The console's last lines, and what QEMU itself said. */
  readonly console: string
}

/** Beside what the host adds. */
const COMMAND_LINE = [
  'quiet panic=-1 oops=panic',
  // Emulation makes all of these slow or wrong: side channel fences, self-tests, stall and clock watchdogs.
  'mitigations=off nokaslr nowatchdog rcupdate.rcu_cpu_stall_suppress=1',
  'cryptomgr.notests random.trust_cpu=on audit=0',
]

/** The descriptors that QEMU inherits, each one end of a socket pair. */
const DESCRIPTOR = { console: 3, control: 4, stdout: 5, stderr: 6, stdin: 7, monitor: 8, qmp: 9 }

const KEPT_LINES = 60

/** Boots a machine, runs one job in it, and takes it down. */
export async function runMachine(options: MachineOptions): Promise<MachineResult> {
  const setpriv = findProgram('setpriv', 'util-linux')
  const { emulator, streams, terminal, signal } = options
  const began = Date.now()
  // With --pdeathsig the guest dies with us, however we die.
  const child = spawn(setpriv, ['--pdeathsig', 'KILL', emulator.program, ...qemuArguments(options)], {
    stdio: ['ignore', ...Array<'pipe'>(options.monitor ? 9 : 7).fill('pipe')],
  })
  const control = channel(child, DESCRIPTOR.control)
  const output = channel(child, DESCRIPTOR.stdout)
  const errors = channel(child, DESCRIPTOR.stderr)
  const input = channel(child, DESCRIPTOR.stdin)
  const lines: string[] = []
  let outcome: Outcome = { kind: 'died' }
  let bootSeconds = 0
  let cpuSeconds = 0
  let timer: NodeJS.Timeout | undefined

  const finish = (reason: Outcome) => {
    if (outcome.kind === 'died') outcome = reason
    cpuSeconds = processorTime(child.pid)
    child.kill('SIGKILL')
  }
  const limit = (seconds: number | undefined, kind: 'timeout' | 'boot-timeout') => {
    clearTimeout(timer)
    if (seconds !== undefined) timer = setTimeout(finish, seconds * 1000, { kind })
  }
  const abort = () => finish({ kind: 'aborted' })
  const resize = () => control.write(`size ${terminal?.rows} ${terminal?.columns}\n`)

  for (const stream of [child.stdout, child.stderr, channel(child, DESCRIPTOR.console)]) {
    if (stream === null) continue
    eachLine(stream, (line) => {
      // Every network card of a topology lacks one, and means to.
      if (line.includes('has no peer')) return
      lines.push(printable(line))
      if (lines.length > KEPT_LINES) lines.shift()
    })
  }
  eachLine(control, (line) => {
    const [word, value] = line.split(' ')
    if (word === 'exit') finish({ kind: 'exited', status: Number(value) })
    if (word !== 'ready') return
    bootSeconds = (Date.now() - began) / 1000
    limit(options.timeoutSeconds, 'timeout')
    terminal?.on('resize', resize)
  })
  if (terminal === null) {
    output.pipe(streams.stdout, { end: false })
    errors.pipe(streams.stderr, { end: false })
    input.resume()
  } else {
    output.resume()
    errors.resume()
    input.pipe(streams.stdout, { end: false })
  }
  if (options.monitor) {
    const [port, qmp] = [channel(child, DESCRIPTOR.monitor), channel(child, DESCRIPTOR.qmp)]
    port.pipe(qmp).pipe(port)
  }
  if (streams.stdin === null) input.end()
  else streams.stdin.pipe(input)
  const text = request(options)
  control.write(`${Buffer.byteLength(text)}\n${text}`)

  limit(options.bootSeconds, 'boot-timeout')
  signal?.addEventListener('abort', abort)
  if (signal?.aborted) abort()
  try {
    // Its streams are closed by then too, so nothing that the command wrote is left behind.
    await new Promise<void>((resolve, reject) => {
      child.once('error', reject)
      child.once('close', (code) => {
        if (code !== 0 && code !== null && outcome.kind === 'died') outcome = { kind: 'refused' }
        resolve()
      })
    })
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', abort)
    terminal?.off('resize', resize)
    streams.stdin?.unpipe(input)
  }
  return { outcome, bootSeconds, cpuSeconds, console: lines.join('\n') }
}

function qemuArguments(options: MachineOptions): string[] {
  const { host, emulator, root, kernel, accelerator, devices, monitor, terminal } = options
  const virtio = (name: string, slot: string) =>
    // High fixed slots, so that a topology that leaves slots to QEMU gets the same ones with and without us.
    host.transport === 'pci' ? `${name}-pci,addr=${slot}` : `${name}-ccw`
  const socket = (name: keyof typeof DESCRIPTOR) => [
    '-chardev',
    `socket,id=lab_${name},fd=${DESCRIPTOR[name]}`,
  ]
  const port = (name: keyof typeof DESCRIPTOR, nr: number) => [
    ...socket(name),
    ...['-device', `virtserialport,bus=lab_ports.0,nr=${nr},chardev=lab_${name},name=lab.${name}`],
  ]
  return [
    ...emulator.args,
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...host.machine,
    // One thread for both processors: with more, QEMU 10 dies now and then of an assertion (iotlb_to_section).
    ...['-accel', accelerator === 'kvm' ? 'kvm' : 'tcg,thread=single'],
    ...host.iommu,
    ...['-kernel', kernel.image, '-initrd', initramfsFor(kernel, host, root)],
    ...[
      '-append',
      [...host.commandLine, ...(host.commandLineOf?.[kernel.name] ?? []), ...COMMAND_LINE].join(' '),
    ],
    ...socket('console'),
    ...host.serial,
    ...['-fsdev', 'local,id=lab_root,path=/,security_model=none,readonly=on,multidevs=remap'],
    ...['-device', `${virtio('virtio-9p', '1d')},fsdev=lab_root,mount_tag=lab_root`],
    ...['-device', `${virtio('virtio-serial', '1e')},id=lab_ports`],
    ...port('control', 1),
    ...port('stdout', 2),
    ...port('stderr', 3),
    ...(terminal === null
      ? port('stdin', 4)
      : [...socket('stdin'), '-device', 'virtconsole,bus=lab_ports.0,nr=4,chardev=lab_stdin']),
    ...(monitor ? [...port('monitor', 5), ...socket('qmp'), '-mon', 'chardev=lab_qmp,mode=control'] : []),
    ...devices,
  ]
}

/** What session.sh asks for: variables in shell syntax. */
function request({ kernel, shared, vfio, terminal, job }: MachineOptions): string {
  const values = {
    modules: kernel.modules ?? '',
    shared: shared.join('\n'),
    vfio: vfio ? '1' : '',
    tty: terminal === null ? '' : '/dev/hvc0',
    rows: String(terminal?.rows ?? 24),
    columns: String(terminal?.columns ?? 80),
    job,
  }
  return Object.entries(values)
    .map(([name, value]) => `${name}=${shellQuote(value)}\n`)
    .join('')
}

/** A word that a shell reads back as it is. */
export function shellQuote(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`
}

/** Our end of a descriptor that QEMU inherited; writing to a machine that is gone is no error. */
function channel(child: ChildProcess, descriptor: number): Duplex {
  const stream = child.stdio[descriptor]
  if (!(stream instanceof Duplex)) throw new Error(`descriptor ${descriptor} is no socket`)
  stream.on('error', () => {})
  return stream
}

/** A machine that ends while we write to it resets the connection, which is an end like any other. */
function eachLine(stream: Readable, take: (line: string) => void): void {
  createInterface({ input: stream })
    .on('line', take)
    .on('error', () => {})
}

/** Console output without the terminal's escape sequences, of which the firmware makes use. */
function printable(line: string): string {
  return (
    line
      // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is removed
      .replace(/\u001b(\[[0-9;?=]*[A-Za-z]|c)/g, '')
      // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is removed
      .replace(/[\u0000-\u0008\u000b-\u001f]/g, '')
  )
}

/** The user and system time of a process so far, in seconds; proc_pid_stat(5). */
function processorTime(pid: number | undefined): number {
  const CLOCK_TICKS = 100
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')
    return (Number(fields[11]) + Number(fields[12])) / CLOCK_TICKS
  } catch {
    return 0
  }
}
