import { resetDevice } from '../actions/reset.js'
import { builtin } from '../builtin.js'
import { VfioError, VfioSystemError } from '../errors.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { isGroupOpen } from './group-open.js'
import { Writer } from './writer.js'

/** All writes to sysfs, module loads and resets go through this interface; tests implement it on their own hosts. */
export interface KernelAccess {
  /** One write to a sysfs file. A write that has not returned keeps `lock` open. */
  write(path: string, text: string, lock?: number): Promise<void>
  /** The text of a sysfs file whose read waits for the device lock. */
  read(path: string, lock?: number): Promise<string>
  /** Loads a kernel module. */
  load(modprobe: string, module: string): Promise<void>
  /** Resets a device through VFIO. @param seen the host with all of them bound @param byIommufd opened by its own node, not its group */
  reset(address: string, kind: 'function' | 'hot', seen: Snapshot, byIommufd: boolean): Promise<void>
  /** Does somebody have this group, or a device of it, open? Asks without touching a device; throws what cannot be told. */
  isOpen(group: number): boolean
  /** Stops waiting for calls that have not returned: the program can end before they do. */
  leave(): void
  /** Lets the writing process end. */
  close(): void
}

/** What a failed write to sysfs was about, for the table of hints: the file's name. */
const requestOf = (path: string) => path.slice(path.lastIndexOf('/') + 1)

/** The running kernel; calls that a test implements go to the test. */
export function kernelWith(other: Partial<KernelAccess> = {}): KernelAccess {
  const running: KernelAccess = new RunningKernel()
  const has = <K extends keyof KernelAccess>(name: K) =>
    (other[name] === undefined ? running : other) as Pick<KernelAccess, K>
  return {
    write: (path, text, lock) => has('write').write(path, text, lock),
    read: (path, lock) => has('read').read(path, lock),
    load: (modprobe, module) => has('load').load(modprobe, module),
    reset: (address, kind, seen, byIommufd) => has('reset').reset(address, kind, seen, byIommufd),
    isOpen: (group) => has('isOpen').isOpen(group),
    leave: () => has('leave').leave(),
    close: () => has('close').close(),
  }
}

/** What the kernel is asked to do by one assignment, release, recovery, rescan, reset or change of virtual functions. */
class RunningKernel implements KernelAccess {
  /** Waits for the next question. */
  #idle: Writer | null = null
  readonly #busy = new Set<{ leave(): void }>()

  write(path: string, text: string, lock?: number): Promise<void> {
    return this.#ask('write', path, (writer) => writer.write(path, text, lock))
  }

  read(path: string, lock?: number): Promise<string> {
    return this.#ask('read', path, (writer) => writer.read(path, lock))
  }

  async #ask<T>(syscall: string, path: string, ask: (writer: Writer) => Promise<T>): Promise<T> {
    const writer = this.#idle ?? (await Writer.start())
    this.#idle = null
    this.#busy.add(writer)
    try {
      const answer = await ask(writer)
      // One that was left meanwhile has been replaced.
      if (this.#busy.has(writer) && this.#idle === null) this.#idle = writer
      else writer.close()
      return answer
    } catch (error) {
      const isAnswer = typeof (error as NodeJS.ErrnoException).errno === 'number'
      if (isAnswer && this.#busy.has(writer) && this.#idle === null) this.#idle = writer
      else writer.close()
      throw systemError(error, requestOf(path), path, syscall)
    } finally {
      this.#busy.delete(writer)
    }
  }

  leave(): void {
    for (const each of this.#busy) each.leave()
    this.#busy.clear()
  }

  close(): void {
    this.#idle?.close()
    this.#idle = null
  }

  load(modprobe: string, module: string): Promise<void> {
    return new Promise((resolve, reject) => {
      // In a session of its own: Ctrl-C is for this program to answer.
      const child = builtin('node:child_process').spawn(modprobe, ['--', module], {
        stdio: ['ignore', 'ignore', 'pipe'],
        env: {},
        detached: true,
      })
      const loading = {
        leave() {
          child.unref()
          child.stderr.destroy()
        },
      }
      this.#busy.add(loading)
      child.on('close', () => this.#busy.delete(loading))
      let said = ''
      child.stderr.on('data', (chunk: Buffer) => {
        said += chunk.toString()
      })
      child.on('error', (error) => reject(systemError(error, 'modprobe', modprobe, 'spawn')))
      child.on('close', (status) => {
        if (status === 0) resolve()
        else {
          reject(
            new VfioError(
              'ERR_VFIO_NO_DRIVER',
              `${modprobe} could not load ${module} (${said.trim().split('\n')[0] || `status ${status}`}): does this kernel have it?`,
            ),
          )
        }
      })
    })
  }

  reset(address: string, kind: 'function' | 'hot', seen: Snapshot, byIommufd: boolean): Promise<void> {
    const stop = new AbortController()
    const running = { leave: () => stop.abort() }
    this.#busy.add(running)
    const backend = byIommufd ? 'iommufd' : 'group'
    const done = resetDevice(seen, address, { hot: kind === 'hot', backend, signal: stop.signal })
    return new Promise((resolve, reject) => {
      done
        .then(
          () => resolve(),
          // Nobody waits for it any more, and an aborted open does not tell how it ended.
          (error) => stop.signal.aborted || reject(error),
        )
        .finally(() => this.#busy.delete(running))
    })
  }

  isOpen(group: number): boolean {
    return isGroupOpen(group)
  }
}

function systemError(error: unknown, request: string, path: string, syscall = 'write'): unknown {
  const { errno } = error as NodeJS.ErrnoException
  if (typeof errno !== 'number' || error instanceof VfioError) return error
  return new VfioSystemError({ errno: -errno, syscall, request, path }, { cause: error })
}

/** The default for how long the kernel may take for one change, in milliseconds. */
export const DEADLINE = 30_000

/** A timer takes 31 bits, and fires at once for more. */
const LONGEST = 2 ** 31 - 1

/** How much longer the running call may take after an abort, in milliseconds. */
const GRACE = 5000

/**
 * Waits for a call no longer than this, and only a few seconds more once `signal` is aborted. The call itself cannot be
 * cancelled: it goes on in the kernel.
 * @throws VfioError `ERR_VFIO_TIMEOUT`
 */
export async function withDeadline<T>(
  work: Promise<T>,
  milliseconds: number,
  what: () => string,
  signal?: AbortSignal,
): Promise<T> {
  const began = performance.now()
  let timer: NodeJS.Timeout | undefined
  let onAbort = () => {}
  const deadline = new Promise<never>((_resolve, reject) => {
    const late = () => {
      const seconds = Math.round((performance.now() - began) / 10) / 100
      const waited = signal?.aborted ? seconds : milliseconds / 1000
      reject(new VfioError('ERR_VFIO_TIMEOUT', `the kernel has not answered for ${waited} s: ${what()}`))
    }
    const wait = (limit: number) => {
      timer = setTimeout(late, Math.min(limit, LONGEST))
    }
    onAbort = () => {
      clearTimeout(timer)
      wait(Math.min(GRACE, Math.max(0, milliseconds - (performance.now() - began))))
    }
    wait(milliseconds)
    signal?.addEventListener('abort', onAbort)
  })
  try {
    return await Promise.race([work, deadline])
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', onAbort)
  }
}

/** After so long without a word a person wonders, in milliseconds. */
const SOON = 1000

/** Waits, and where that takes longer than a second says once for what. */
export async function sayingWhat<T>(
  waited: Promise<T>,
  onWait: ((what: string) => void) | undefined,
  what: () => string,
): Promise<T> {
  if (onWait === undefined) return waited
  const timer = setTimeout(() => onWait(what()), SOON)
  try {
    return await waited
  } finally {
    clearTimeout(timer)
  }
}
