import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { LabError, messageOf } from './errors.js'
import { GUEST_FAILED, runInGuest } from './guest.js'
import { labHosts } from './hosts.js'
import { kernelNames } from './kernels.js'

const USAGE = `usage: npm run lab -- [OPTIONS] [--] [COMMAND…]

Runs COMMAND in a VFIO guest that sees this machine's files under a throwaway layer, and exits with its status.
Without COMMAND: an interactive shell there.

  --host H          the machine to have; default: ${labHosts[0]?.name}
${labHosts.map(({ name, title, kernels }) => `                      ${name.padEnd(12)} ${title}; kernels ${kernels.join(', ')}`).join('\n')}
  --kernel K        ${kernelNames.join(', ')}, or IMAGE[,MODULES-DIR]; default: the newest of the host's
  --topology FILE   QEMU arguments of the devices to have; default: one of scripts/lab/topologies/
  --timeout S       seconds that COMMAND may take (status 124 when it takes longer)
  --no-vfio         leave vfio-pci unloaded
  --monitor         QEMU's own monitor (QMP) at /dev/virtio-ports/lab.monitor
  --help            this text

Status 125: the guest did not come up, or died.`

const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const

async function main(): Promise<number> {
  const request = readArguments()
  if (request === null) {
    console.log(USAGE)
    return 0
  }
  const stop = new AbortController()
  for (const [name, number] of Object.entries(SIGNALS)) {
    process.once(name, () => stop.abort(number))
  }
  // A reader that left, as `head` does, ends the guest the way it would end a local program.
  process.stdout.on('error', () => stop.abort(13))

  const { stdin, stdout, stderr } = process
  const interactive = request.command.length === 0
  if (interactive && !(stdin.isTTY && stdout.isTTY)) {
    throw new LabError('an interactive shell needs a terminal; give a COMMAND after --')
  }
  if (interactive) stdin.setRawMode(true)
  try {
    const { status, failure } = await runInGuest({
      ...request,
      command: interactive ? [process.env.SHELL ?? '/bin/sh'] : request.command,
      streams: { stdin: stdin.isTTY && !interactive ? null : stdin, stdout, stderr },
      terminal: interactive ? stdout : undefined,
      signal: stop.signal,
      say: (line) => console.error(`lab: ${line}`),
    })
    if (failure !== null) console.error(`lab: ${failure}`)
    return status
  } catch (error) {
    if (stop.signal.aborted) return 128 + Number(stop.signal.reason)
    throw error
  } finally {
    if (interactive) stdin.setRawMode(false)
    stdin.destroy()
  }
}

function readArguments() {
  // npm runs us at the package's root and tells where the caller stood.
  const cwd =
    process.env.npm_lifecycle_event === 'lab' ? (process.env.INIT_CWD ?? process.cwd()) : process.cwd()
  const { options, command } = splitCommand(process.argv.slice(2))
  const { values } = parseArgs({
    args: options,
    options: {
      host: { type: 'string' },
      kernel: { type: 'string' },
      topology: { type: 'string' },
      timeout: { type: 'string' },
      'no-vfio': { type: 'boolean', default: false },
      monitor: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) return null
  const timeoutSeconds = values.timeout === undefined ? undefined : Number(values.timeout)
  if (timeoutSeconds !== undefined && !(timeoutSeconds > 0)) {
    throw new LabError(`--timeout ${values.timeout}: expected a number of seconds above 0`)
  }
  return {
    host: values.host,
    kernel: values.kernel,
    topology: values.topology === undefined ? undefined : resolve(cwd, values.topology),
    timeoutSeconds,
    vfio: !values['no-vfio'],
    monitor: values.monitor,
    command,
    cwd,
  }
}

/** The command begins after `--` or at the first word that is neither an option nor an option's value. */
function splitCommand(words: string[]): { options: string[]; command: string[] } {
  const takesValue = ['--host', '--kernel', '--topology', '--timeout']
  let end = 0
  while (end < words.length) {
    const word = words[end] ?? ''
    if (word === '--') return { options: words.slice(0, end), command: words.slice(end + 1) }
    if (!word.startsWith('-')) break
    end += takesValue.includes(word) ? 2 : 1
  }
  return { options: words.slice(0, end), command: words.slice(end) }
}

try {
  process.exitCode = await main()
} catch (error) {
  console.error(`lab: ${messageOf(error)}`)
  if (process.env.VFIO_DEBUG === '1' && error instanceof Error) console.error(error.stack)
  process.exitCode = GUEST_FAILED
}
