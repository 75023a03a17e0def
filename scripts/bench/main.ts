// npm run bench [-- --json]: ratios against the named peers, measured in the same run.
import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { parseArgs } from 'node:util'
import { LabError, messageOf } from '../lab/errors.js'
import { runInGuest } from '../lab/guest.js'
import { benchHost } from './host.js'
import { type Result, result } from './measure.js'
import type { Compared } from './peers.js'

const ADDON = 'build/Release/vfio.node'

/** The rows of an open device: what is measured, its unit and how many nanoseconds that is, and the bar. */
const DRIVING: Readonly<Record<string, readonly [what: string, unit: string, scale: number, bar: number]>> = {
  read32: ['read32() through a mapping : a load in C', 'ns', 1, 1.5],
  config: ['read32() of config space : pread() in C', 'ns', 1, 1.5],
  bulk: ['read() of 4 KiB from a BAR : loads in C', 'µs', 1e3, 1.2],
  map4k: ['map() and unmap() of 4 KiB : MAP_DMA and UNMAP_DMA in C', 'µs', 1e3, 1.5],
  map2m: ['map() and unmap() of 2 MiB : MAP_DMA and UNMAP_DMA in C', 'µs', 1e3, 1.1],
  map256m: ['map() and unmap() of 256 MiB : MAP_DMA and UNMAP_DMA in C', 'ms', 1e6, 1.05],
  ioas4k: ['map() and unmap() of 4 KiB : IOAS_MAP and IOAS_UNMAP in C', 'µs', 1e3, 1.5],
  ioas2m: ['map() and unmap() of 2 MiB : IOAS_MAP and IOAS_UNMAP in C', 'µs', 1e3, 1.1],
  ioas256m: ['map() and unmap() of 256 MiB : IOAS_MAP and IOAS_UNMAP in C', 'ms', 1e6, 1.05],
  openIommufd: ['opening to the first register by iommufd : the same calls in C', 'ms', 1e6, 1.3],
  openGroup: ['opening to the first register by group : the same calls in C', 'ms', 1e6, 1.3],
  nvme: ['NVMe read of 4 KiB, 32 in flight, polling : the same driver in C', 'µs', 1e3, 1.5],
  interrupt: ['interrupt to callback : interrupt to the end of epoll_wait() in C', 'µs', 1e3, 3],
}

/** Runs a program in a guest of its own, which prints what it measured. */
async function measureInGuest(script: string, kernel?: string): Promise<Compared[]> {
  const stdout = new PassThrough()
  const printed = text(stdout)
  const { status, failure } = await runInGuest({
    kernel,
    command: [process.execPath, `build/ts/scripts/bench/${script}.js`],
    streams: { stdin: null, stdout, stderr: process.stderr },
    timeoutSeconds: 900,
    say: (line) => console.error(`bench: ${line}`),
  })
  stdout.end()
  if (failure !== null || status !== 0) throw new LabError(failure ?? `the guest ended with status ${status}`)
  return JSON.parse(await printed) as Compared[]
}

async function benchGuest(): Promise<Result[]> {
  const ioctls = await measureInGuest('ioctls')
  const bindings = await measureInGuest('bind')
  const driving = [
    ...(await measureInGuest('drive')),
    ...(await measureInGuest('iommufd', 'iommufd')),
    ...(await measureInGuest('nvme')),
  ]
  return [
    ...ioctls.map(({ name, pairs }) => result(`${name}() : the same ioctl in C`, pairs, 'ns', 2)),
    ...bindings.map(({ name, pairs }) =>
      result(`${name}() of a group of three : the same writes in C`, pairs, 'ms', 1.2, 1e6),
    ),
    ...driving.map(({ name, pairs }) => {
      const [what = name, unit = 'ns', scale = 1, bar = 1] = DRIVING[name] ?? []
      return result(what, pairs, unit, bar, scale)
    }),
  ]
}

function render(results: readonly Result[]): string {
  return results
    .map(({ name, ours, peer, unit, ratio, spread: [lowest, highest], rounds, bar }) => {
      const verdict = ratio <= bar ? 'met' : 'NOT met'
      const spread = rounds > 1 ? `, from ${lowest} to ${highest} in ${rounds} rounds` : ''
      return `${name}\n    ${ours} ${unit} : ${peer} ${unit} = ${ratio}${spread} (at most ${bar}: ${verdict})`
    })
    .join('\n')
}

try {
  const { values } = parseArgs({ options: { json: { type: 'boolean', default: false } } })
  const results = [...benchHost(ADDON), ...(await benchGuest())]
  console.log(values.json ? JSON.stringify(results) : render(results))
} catch (error) {
  console.error(`bench: ${messageOf(error)}`)
  process.exitCode = 1
}
