import {
  type RescanReport,
  type ResetMethodReport,
  type ResetReport,
  rescanDevice,
  resetByMethod,
  resetDevice,
  type Snapshot,
  VfioError,
} from '../index.js'
import { forced } from './force.js'
import { answer } from './output.js'
import { stoppable } from './signals.js'

export interface ResetCommandOptions {
  readonly hot?: boolean
  readonly method?: string
  readonly force?: readonly string[]
  readonly timeout?: number
  readonly json?: boolean
}

const deadlineOf = ({ timeout }: { readonly timeout?: number }) =>
  timeout === undefined ? undefined : timeout * 1000

/** `vfio reset`: resets a device through VFIO, by itself or with all of its slot or bus; or by a method of the kernel. */
export async function reset(seen: Snapshot, address: string, options: ResetCommandOptions): Promise<number> {
  const { json = false, hot = false, method } = options
  if (method === undefined) {
    if (options.force || options.timeout !== undefined)
      throw new VfioError('ERR_VFIO_BAD_ARGUMENT', '--force and --timeout go with --method')
    answer(await resetDevice(seen, address, { hot }), json, render)
    return 0
  }
  const force = forced(options.force)
  return await stoppable('putting back the reset methods', async (signal) => {
    const report = await resetByMethod(seen, address, method, {
      force,
      signal,
      deadline: deadlineOf(options),
    })
    answer(report, json, renderMethod)
    return 0
  })
}

function render({ address, method, affected, milliseconds }: ResetReport): string {
  const how = method === 'hot' ? 'a hot reset' : 'a function reset'
  const others = affected.filter((other) => other !== address)
  const along = others.length > 0 ? ` together with ${others.join(', ')}` : ''
  return `${address} was reset${along} by ${how} in ${milliseconds} ms\n`
}

function renderMethod({ address, method, milliseconds, methods }: ResetMethodReport): string {
  return `${address} was reset by ${method} in ${milliseconds} ms; the kernel has ${methods.join(', ')} for it again\n`
}

export interface RescanCommandOptions {
  readonly force?: readonly string[]
  readonly timeout?: number
  readonly journal?: string
  readonly json?: boolean
}

/** `vfio rescan`: removes a device and lets the kernel find it anew. */
export async function rescan(
  seen: Snapshot,
  address: string,
  options: RescanCommandOptions,
): Promise<number> {
  const { json = false, journal } = options
  const force = forced(options.force)
  return await stoppable('nothing was changed, or what is begun is finished', async (signal) => {
    const report = await rescanDevice(seen, address, {
      force,
      signal,
      journal,
      deadline: deadlineOf(options),
    })
    answer(report, json, renderRescan)
    return 0
  })
}

function renderRescan({ address, driver, former }: RescanReport): string {
  const was =
    former === driver ? ', as before' : `; it was ${former === null ? 'without one' : `bound to ${former}`}`
  return `${address} was found anew, and ${driver === null ? 'has no driver' : `is bound to ${driver}`}${was}\n`
}
