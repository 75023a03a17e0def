import { fileURLToPath } from 'node:url'
import { acceleratorFor } from './accelerator.js'
import { compileFor } from './cross.js'
import { emulatorFor } from './emulator.js'
import { LabError } from './errors.js'
import { findHost, isNative, type LabHost } from './hosts.js'
import { findKernel, type Kernel } from './kernels.js'
import { type MachineResult, runMachine, type Streams, shellQuote, type Terminal } from './machine.js'
import { rootFor } from './root.js'
import { readTopology } from './topology.js'

/** The topology that a guest gets when none is named. */
const defaultTopology = ({ topology }: LabHost) =>
  fileURLToPath(new URL(`topologies/${topology}.args`, import.meta.url))

const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '')

/** Exit statuses of the lab itself; `timeout` and container runtimes have the same. */
export const TIMED_OUT = 124
export const GUEST_FAILED = 125

/** A stock kernel needs under 10 s; the rest is for a busy machine. */
const BOOT_SECONDS = 180

export interface GuestOptions {
  /** One of hosts.ts by name; left out: the default. */
  readonly host?: string | undefined
  /** A known one by name (`6.12`, `iommufd`), `IMAGE[,MODULES-DIR]`, or a kernel found before; left out: the newest of the host's that can be had. */
  readonly kernel?: string | Kernel | undefined
  /** A file of QEMU arguments; left out: the host's default one. */
  readonly topology?: string | undefined
  /** The program, looked up on PATH, and its arguments. */
  readonly command: readonly string[]
  /** Left out: the caller's own. */
  readonly cwd?: string | undefined
  /** Added to the caller's own environment; undefined takes a variable away. */
  readonly env?: Readonly<Record<string, string | undefined>> | undefined
  /** For the command, not counting the boot; left out: no limit. */
  readonly timeoutSeconds?: number | undefined
  /** Whether vfio-pci is loaded; left out: it is. */
  readonly vfio?: boolean | undefined
  /** Whether the command finds QEMU's own monitor (QMP) at /dev/virtio-ports/lab.monitor; left out: it does not. */
  readonly monitor?: boolean | undefined
  /** Where the command reads and writes; left out: nothing to read, and the caller's own output. */
  readonly streams?: Streams | undefined
  /** Gives the command a terminal of its own, whose two ends are `streams.stdin` and `streams.stdout`. */
  readonly terminal?: Terminal | undefined
  /** Ends the guest. */
  readonly signal?: AbortSignal | undefined
  /** Gets a line for each long step, such as fetching a kernel. */
  readonly say?: ((line: string) => void) | undefined
}

export interface GuestResult {
  /** The command's own status, 128 + signal when one ended it; else TIMED_OUT or GUEST_FAILED. */
  readonly status: number
  /** Why the command has no status of its own; null when it has one. */
  readonly failure: string | null
  /** From the start of QEMU until the command could run. */
  readonly bootSeconds: number
  /** Processor time of the whole guest. */
  readonly cpuSeconds: number
}

/** Boots a VFIO guest that sees this machine's files, runs a command in it, and takes it down. */
export async function runInGuest(options: GuestOptions): Promise<GuestResult> {
  const say = options.say ?? (() => {})
  if (process.arch !== 'x64')
    throw new LabError(`the lab runs on x86-64 only, and this machine is ${process.arch}`)
  const host = findHost(options.host)
  const devices = readTopology(options.topology ?? defaultTopology(host))
  const kernel =
    typeof options.kernel === 'object'
      ? options.kernel
      : await findKernel(host, options.kernel, say, options.signal)
  const emulator = await emulatorFor(host, say)
  const native = isNative(host)
  if (!native) await compileFor(host, say)
  const result = await runMachine({
    host,
    emulator,
    root: native ? '/' : await rootFor(host, say),
    shared: native ? [] : [CHECKOUT],
    kernel,
    accelerator: await acceleratorFor(host, emulator, kernel, say),
    devices,
    vfio: options.vfio ?? true,
    monitor: options.monitor ?? false,
    job: jobScript(options),
    streams: options.streams ?? { stdin: null, stdout: process.stdout, stderr: process.stderr },
    terminal: options.terminal ?? null,
    bootSeconds: BOOT_SECONDS,
    timeoutSeconds: options.timeoutSeconds,
    signal: options.signal,
  })
  options.signal?.throwIfAborted()
  const { outcome, bootSeconds, cpuSeconds } = result
  if (outcome.kind === 'exited') return { status: outcome.status, failure: null, bootSeconds, cpuSeconds }
  const status = outcome.kind === 'timeout' ? TIMED_OUT : GUEST_FAILED
  return { status, failure: failureText(result, kernel, options.timeoutSeconds), bootSeconds, cpuSeconds }
}

function failureText(
  { outcome, bootSeconds, console }: MachineResult,
  kernel: Kernel,
  limit?: number,
): string {
  if (outcome.kind === 'refused') return `QEMU ended by itself:\n${console}`
  const last = console === '' ? 'its console is empty' : `the last lines of its console:\n${console}`
  if (outcome.kind === 'timeout') return `the command did not end within ${limit} s (--timeout); ${last}`
  if (outcome.kind === 'boot-timeout') {
    return `the guest (kernel ${kernel.name}) did not come up within ${BOOT_SECONDS} s; ${last}`
  }
  return bootSeconds === 0
    ? `the guest (kernel ${kernel.name}) did not come up; ${last}`
    : `the guest (kernel ${kernel.name}) died while the command ran; ${last}`
}

/** What belongs to the caller's session or to npm, and means nothing in the guest. */
const FOREIGN =
  /^(npm_.*|INIT_CWD|NODE_CHANNEL_.*|NODE_UNIQUE_ID|LD_PRELOAD|DISPLAY|WAYLAND_.*|XDG_(RUNTIME|SESSION|SEAT|VTNR).*|DBUS_.*|SSH_.*|SUDO_.*|NOTIFY_SOCKET|INVOCATION_ID|JOURNAL_STREAM|LISTEN_.*|PWD|OLDPWD|SHLVL|_)$/

/**
 * What says whom to trust on the network, of which a guest has none: Node would read all certificates at each start, which takes
 * five times as long as the rest of it.
 */
const CERTIFICATES = /^(NODE_EXTRA_CA_CERTS|SSL_CERT_.*)$/

function jobScript({ command, cwd = process.cwd(), env = {} }: GuestOptions): string {
  const own = Object.entries(process.env).filter(
    ([name]) => ![FOREIGN, CERTIFICATES].some((left) => left.test(name)),
  )
  const variables: Record<string, string | undefined> = {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    HOME: '/root',
    TERM: 'linux',
    ...Object.fromEntries(own),
    ...env,
  }
  const exports = Object.entries(variables).flatMap(([name, value]) =>
    value !== undefined && /^[A-Za-z_][A-Za-z0-9_]*$/.test(name)
      ? [`export ${name}=${shellQuote(value)}\n`]
      : [],
  )
  const words = command.map(shellQuote).join(' ')
  return `cd ${shellQuote(cwd)} || exit ${GUEST_FAILED}\n${exports.join('')}exec ${words}\n`
}
