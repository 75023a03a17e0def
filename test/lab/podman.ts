import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeRoot, PROGRAM, SHARED } from './container-root.js'

/** Whether the kernel can keep a container from device nodes that it was not given (CONFIG_CGROUP_BPF). */
export const hasDeviceFilter = existsSync('/proc/sys/kernel/unprivileged_bpf_disabled')

const can = (file: string, word: string) => readFileSync(file, 'utf8').includes(word)

/** What a kernel of the lab lacks of what podman asks for: the runtime that can do without, and options of "run". */
export const LACKS = [
  ...(hasDeviceFilter ? ['--runtime=runc'] : ['--runtime=crun']),
  ...(hasDeviceFilter ? [] : ['--cgroups=disabled']),
  ...(existsSync('/proc/self/ns/ipc') ? [] : ['--ipc=host']),
  ...(can('/proc/filesystems', 'mqueue') ? [] : ['--mount=type=tmpfs,destination=/dev/mqueue']),
  ...(can('/proc/self/status', 'Seccomp:') ? [] : ['--security-opt=seccomp=unconfined']),
]

/** Podman with all that it keeps below a directory of this guest, which has no systemd and no network. */
export class Podman {
  readonly #words: readonly string[]

  constructor(directory: string) {
    const root = makeRoot(join(directory, 'rootfs'))
    const [runtime = '', ...options] = LACKS
    this.#words = [
      ...[`--root=${directory}/root`, `--runroot=${directory}/runroot`],
      ...['--cgroup-manager=cgroupfs', '--events-backend=none', runtime, 'run', '--rm'],
      ...['--interactive', '--network=none', '--log-driver=none', ...options],
      // Podman's defaults are above the limits of this guest.
      ...['--ulimit=nofile=1024:1024', '--ulimit=nproc=4096:4096', '--ulimit=memlock=-1:-1'],
      ...SHARED.map((path) => `--volume=${path}:${path}:ro`),
      ...['--rootfs', root],
    ]
  }

  #command(device: string, more: readonly string[]): string[] {
    const at = this.#words.indexOf('--rootfs')
    return [...this.#words.slice(0, at), `--device=${device}`, ...this.#words.slice(at), ...PROGRAM, ...more]
  }

  /** Runs a container with a device until it ends. */
  run(device: string): { status: number | null; stdout: string; stderr: string } {
    return spawnSync('podman', this.#command(device, []), { encoding: 'utf8', input: '' })
  }

  /** Starts one that keeps the device until its input ends. */
  hold(device: string) {
    return spawn('podman', this.#command(device, ['hold']), { stdio: ['pipe', 'pipe', 'inherit'] })
  }
}
