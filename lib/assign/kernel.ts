import { spawn } from 'node:child_process'
import { closeSync, constants, openSync, write } from 'node:fs'
import { promisify } from 'node:util'
import { VfioError, VfioSystemError } from '../errors.js'
import { Host } from '../sysfs/host.js'
import { resetDevice } from '../vfio/reset.js'
import { isGroupOpen } from './group-open.js'

/** Everything that this package does to a host goes through here; tests put a host of their own in its place. */
export interface KernelAccess {
  /** One write to a file of sysfs. */
  write(path: string, text: string): Promise<void>
  /** Loads a kernel module. */
  load(modprobe: string, module: string): Promise<void>
  /** Resets a device through VFIO. */
  reset(address: string, kind: 'function' | 'hot'): Promise<void>
  /** Does somebody have this group, or a device of it, open? Asks without touching a device; throws what cannot be told. */
  isOpen(group: number): boolean
}

// The write alone may wait for the device; handing over the rest would take longer than doing it.
const writeText: (file: number, text: string) => Promise<unknown> = promisify(write)

/** What a failed write to sysfs was about, for the table of hints: the file's name. */
const requestOf = (path: string) => path.slice(path.lastIndexOf('/') + 1)

export const runningKernel: KernelAccess = {
  async write(path, text) {
    try {
      // Opened without O_CREAT: a file that sysfs does not have must not come to be elsewhere.
      const file = openSync(path, constants.O_WRONLY)
      try {
        await writeText(file, text)
      } finally {
        closeSync(file)
      }
    } catch (error) {
      throw systemError(error, requestOf(path), path)
    }
  },

  load(modprobe, module) {
    return new Promise((resolve, reject) => {
      const child = spawn(modprobe, ['--', module], { stdio: ['ignore', 'ignore', 'pipe'], env: {} })
      let said = ''
      child.stderr.on('data', (chunk: Buffer) => {
        said += chunk.toString()
      })
      child.on('error', (error) => reject(systemError(error, 'modprobe', modprobe)))
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
  },

  async reset(address, kind) {
    await resetDevice(new Host().snapshot({ brief: true, around: [address] }), address, {
      hot: kind === 'hot',
    })
  },

  isOpen: (group) => isGroupOpen(group),
}

function systemError(error: unknown, request: string, path: string): unknown {
  const { errno, syscall } = error as NodeJS.ErrnoException
  if (typeof errno !== 'number') return error
  return new VfioSystemError({ errno: -errno, syscall: syscall ?? 'write', request, path }, { cause: error })
}

/** The default for how long the kernel may take for one change, in milliseconds. */
export const DEADLINE = 30_000

/** Timers count in 31 bits, and take a longer time for none at all. */
const LONGEST = 2 ** 31 - 1

/**
 * Waits for a change no longer than this. The change itself cannot be called back: it goes on in the kernel.
 * @throws VfioError `ERR_VFIO_TIMEOUT`
 */
export async function withDeadline<T>(
  work: Promise<T>,
  milliseconds: number,
  what: () => string,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const deadline = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => {
        reject(
          new VfioError(
            'ERR_VFIO_TIMEOUT',
            `the kernel has not answered for ${milliseconds / 1000} s: ${what()}`,
          ),
        )
      },
      Math.min(milliseconds, LONGEST),
    )
  })
  try {
    return await Promise.race([work, deadline])
  } finally {
    clearTimeout(timer)
  }
}
