import { join } from 'node:path'
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { Host, VfioError, VfioSystemError } from 'vfio'
import { bind } from './bind.js'
import { CDI_DIRECTORIES, readClaims } from './claims.js'
import { readConfig } from './config.js'
import { toStandardError } from './log.js'
import { type Offer, offer } from './offer.js'
import { version } from './package.js'
import { serve } from './serve.js'
import { SPECIFICATIONS, Specifications } from './specifications.js'
import { printable } from './text.js'

interface PluginCommand {
  readonly config: string
  readonly kubeletDir: string
  readonly port?: number
  readonly featuresDir?: string
  readonly dryRun?: boolean
  readonly json?: boolean
}

const NOT_READY = 1
const WRONG_USAGE = 2
const KERNEL_REFUSED = 3

const config = () => new Option('--config <file>', 'what is offered, as YAML or JSON')
const json = () => new Option('--json', 'print it as JSON')

const program = new Command('vfio-device-plugin')
  .description('offer PCI devices of this node to the kubelet: whole IOMMU groups, through VFIO')
  .version(version())
  .enablePositionalOptions()
  .addOption(config())
  .option('--kubelet-dir <dir>', "the kubelet's directory", '/var/lib/kubelet')
  .addOption(
    new Option('--port <number>', 'serve /metrics, /livez and /healthz on it').argParser((text) => {
      if (/^\d{1,5}$/.test(text) && Number(text) < 65536) return Number(text)
      throw new InvalidArgumentError('a port is a number up to 65535')
    }),
  )
  .option('--features-dir <dir>', 'label the node: where Node Feature Discovery looks for feature files')
  .option('--dry-run', 'print what would be offered, and end')
  .addOption(json())
  .action(run(act))

program
  .command('bind')
  .description('bind what the configuration selects to VFIO, each group as a whole')
  .addOption(config())
  .option('--keep-going', 'end with 0 where some could not be bound: the plugin tells of them')
  .option('--dry-run', 'print what would be done, and do nothing')
  .addOption(json())
  .option('--journal <dir>', 'directory of the journal (default: /run/vfio)')
  .action(run(bind))

for (const command of [program, ...program.commands]) command.exitOverride()

async function act(options: PluginCommand): Promise<number> {
  const wanted = readConfig(options.config)
  if (!options.dryRun) {
    if (options.json) throw new VfioError('ERR_VFIO_BAD_ARGUMENT', '--json goes with --dry-run')
    return serve(options, wanted, toStandardError)
  }
  const specifications = new Specifications(SPECIFICATIONS)
  const abandoned = await specifications.abandoned(wanted, join(options.kubeletDir, 'device-plugins'))
  const own = [...specifications.pathsOf(wanted), ...abandoned.map((name) => specifications.path(name))]
  const claims = readClaims(CDI_DIRECTORIES, new Set(own))
  const found = offer(new Host().snapshot(), wanted, { claims })
  process.stdout.write(options.json ? `${printable(JSON.stringify(found))}\n` : printed(found))
  const isWhole =
    found.refused.length === 0 &&
    found.resources.every(({ devices }) => devices.every((each) => each.healthy))
  return isWhole ? 0 : NOT_READY
}

function printed({ resources, refused }: Offer): string {
  const lines = resources.flatMap(({ name, consumer, devices }) => [
    `${name} for ${consumer}: ${devices.length === 0 ? 'no device on this host' : `${devices.filter(({ healthy }) => healthy).length} of ${devices.length} healthy`}`,
    ...devices.map(({ id, group, functions, healthy, reason, inUse }) => {
      const others = functions.filter((address) => address !== id)
      const along = others.length === 0 ? '' : ` with ${others.join(', ')}`
      const state = healthy ? `healthy${inUse === null ? '' : `, in use: ${inUse}`}` : `unhealthy: ${reason}`
      return `  ${id} (group ${group ?? 'none yet'}${along}) ${state}`
    }),
  ])
  return [...lines, ...refused.map(({ reason }) => `refused: ${reason}`)]
    .map((line) => `${printable(line)}\n`)
    .join('')
}

function run<T>(
  command: (options: T) => number | Promise<number>,
): (options: T, self: Command) => Promise<void> {
  return async (_options, self) => {
    const options = self.opts<T & object & { readonly config?: string }>()
    if (options.config === undefined)
      throw new VfioError('ERR_VFIO_BAD_ARGUMENT', '--config FILE is missing: it says what is offered')
    process.exitCode = await command(options)
  }
}

function statusOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : WRONG_USAGE
  if (error instanceof VfioSystemError) return KERNEL_REFUSED
  return error instanceof VfioError && error.code === 'ERR_VFIO_BAD_ARGUMENT' ? WRONG_USAGE : NOT_READY
}

process.title = 'vfio-device-plugin'
try {
  await program.parseAsync()
} catch (error) {
  process.exitCode = statusOf(error)
  // It has said itself what is wrong.
  if (!(error instanceof CommanderError)) {
    const { message, stack } = error instanceof Error ? error : new Error(String(error))
    const text = process.env.VFIO_DEBUG ? (stack ?? message) : message
    for (const line of text.split('\n')) toStandardError(line)
  }
}
