import { fstatSync, writeSync } from 'node:fs'
import { type Command, InvalidArgumentError, Option } from 'commander'
import {
  type Ending,
  launch,
  type Plan,
  parseSize,
  planAssignment,
  type ResetPolicy,
  type Run,
  type RunEvent,
  recover,
  type Snapshot,
  VfioError,
  VfioSystemError,
} from '../index.js'
import { statusOfSignal } from './exit.js'
import {
  collect,
  type Declare,
  deadlineOf,
  force,
  forced,
  journal,
  run as keep,
  look,
  timeout,
} from './options.js'
import { note, toJson } from './output.js'
import { progress, type Verbose, verbose } from './progress.js'
import { Forwarder } from './signals.js'

interface RunOptions extends Verbose {
  readonly group?: boolean
  readonly user?: string
  readonly memory?: string
  readonly backend?: 'auto' | 'iommufd' | 'group'
  readonly option?: readonly string[]
  readonly machine?: string
  readonly driver?: string
  readonly noiommu?: boolean
  readonly reset?: ResetPolicy
  readonly force?: readonly string[]
  readonly jsonEvents?: number
  readonly timeout?: number
  readonly journal?: string
}

/** Exit statuses of a shell for what cannot be executed, and for what is not there. */
const NOT_EXECUTABLE = 126
const NOT_FOUND = 127

/** `vfio run`: a command that has devices for as long as it runs. Exit status: the command's, 128 + the signal that ended it. */
export const run: Declare = (vfio) => {
  vfio
    .command('run')
    .description('run a command with devices, and give them back when it ends')
    .usage('[options] <address...> -- <command...>')
    .argument(
      '<address...>',
      'PCI addresses; behind -- the command: {qemu}, {cloud-hypervisor} and {addresses} become its arguments for them',
    )
    .option('--group', 'take every device of their groups')
    .option('--user <name>', 'run it as this user, without any capability')
    .addOption(new Option('--memory <size>', 'memory of the VM, like 16G: sets its limit on locked memory'))
    .addOption(
      new Option('--backend <how>', 'what it opens the devices by').choices(['auto', 'iommufd', 'group']),
    )
    .addOption(
      new Option('--option <key=value>', "a property of QEMU's vfio-pci (may be given again)").argParser(
        collect,
      ),
    )
    .option('--machine <type>', "machine type that QEMU's arguments are for: q35, pc, virt, s390-ccw-virtio")
    .option('--driver <name>', 'VFIO driver: auto takes the best variant driver, else vfio-pci', 'auto')
    .option('--noiommu', 'take devices without an IOMMU too: they can reach all memory of the host')
    .addOption(
      new Option('--reset <when>', 'reset the devices').choices(['none', 'before', 'before-and-after']),
    )
    .addOption(force('disturb'))
    .addOption(
      new Option('--json-events <fd>', 'what happens, one JSON object a line, to this descriptor').argParser(
        descriptor,
      ),
    )
    .addOption(timeout())
    .addOption(verbose())
    .addOption(journal())
    .action(
      keep((words: readonly string[], options: RunOptions, command: Command) => {
        const { addresses, argv } = split(words, command)
        return act(addresses, argv, options)
      }),
    )
}

function descriptor(text: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text)
  throw new InvalidArgumentError('expected the number of a descriptor, like 3.')
}

/** The command line's parser keeps no `--` between what stands before and behind it. */
function split(words: readonly string[], command: Command) {
  const all = (command.parent as (Command & { readonly rawArgs?: readonly string[] }) | null)?.rawArgs ?? []
  const at = all.indexOf('--')
  const count = at < 0 ? 0 : all.length - at - 1
  const addresses = words.slice(0, words.length - count)
  const argv = words.slice(words.length - count)
  if (addresses.length > 0 && argv.length > 0) return { addresses, argv }
  throw new VfioError(
    'ERR_VFIO_BAD_ARGUMENT',
    'name the devices, and the command behind --, as in "vfio run 59:00.0 -- qemu-system-x86_64 -m 4G"',
  )
}

async function act(
  addresses: readonly string[],
  argv: readonly string[],
  options: RunOptions,
): Promise<number> {
  const tell = events(options.jsonEvents)
  const properties = options.option === undefined ? undefined : propertiesOf(options.option)
  const memory = options.memory === undefined ? undefined : parseSize(options.memory)
  const plan = await planned(addresses, options)
  for (const warning of plan.warnings) note(`vfio: ${warning}`)
  const { user, backend, machine } = options
  const signals = new Forwarder()
  try {
    const running = await launch(plan, {
      ...{ command: argv, user, memory, backend, properties, machine, foreground: true },
      journal: options.journal,
      deadline: deadlineOf(options),
      ...progress(options),
      signal: signals.before,
      onEvent: (event) => {
        tell(event)
        const line = sentence(event)
        if (line !== null) note(`vfio: ${line}`)
      },
    })
    return await ended(running, signals)
  } catch (error) {
    if (signals.status !== null && error === signals.before.reason) return signals.status
    if (!(error instanceof VfioSystemError) || error.request !== 'command') throw error
    note(`vfio: ${error.message}`)
    return error.code === 'ENOENT' ? NOT_FOUND : NOT_EXECUTABLE
  } finally {
    signals.stop()
  }
}

async function ended(running: Run, signals: Forwarder): Promise<number> {
  signals.to(running)
  const ending = await running.exited
  signals.afterwards()
  await running.released
  return statusOfEnding(ending)
}

const statusOfEnding = ({ status, signal }: Ending) =>
  status ?? (signal === null ? 1 : statusOfSignal(signal))

/** What a run that died has left is put in order first: only then it can be seen how the devices are. */
async function planned(addresses: readonly string[], options: RunOptions): Promise<Plan> {
  const seen = look({}, { around: addresses, overrides: true })
  const members = addresses
    .flatMap((name) => seen.named(name))
    .flatMap((one) => neighbours(seen, 'uuid' in one ? one.uuid : one.address, one.group))
  const { recovered, warnings } = await recover({
    only: members,
    patience: PATIENCE,
    journal: options.journal,
    deadline: deadlineOf(options),
  })
  for (const warning of warnings) note(`vfio: ${warning}`)
  for (const address of recovered) note(`vfio: ${address} was left by a run that died, and was put in order`)
  const now = recovered.length > 0 ? look({}, { around: addresses, overrides: true }) : seen
  const { driver, group, noiommu, reset } = options
  return planAssignment(now, addresses, {
    ...(driver !== undefined && { driver }),
    ...(group !== undefined && { group }),
    ...(noiommu !== undefined && { noIommu: noiommu }),
    ...(reset !== undefined && { reset }),
    ...(options.force !== undefined && { force: forced(options.force) }),
  })
}

/** How long the guard of a run that died may take, in milliseconds. */
const PATIENCE = 10_000

const neighbours = (seen: Snapshot, name: string, group: number | null): readonly string[] =>
  group === null ? [name] : [name, ...seen.group(group).members]

function propertiesOf(texts: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    texts.map((text) => {
      const at = text.indexOf('=')
      if (at > 0) return [text.slice(0, at), text.slice(at + 1)]
      throw new VfioError('ERR_VFIO_BAD_ARGUMENT', `--option takes KEY=VALUE, like x-no-mmap=on, not ${text}`)
    }),
  )
}

/** Writes events to a descriptor. A reader that goes away has seen what it wanted. */
function events(fd: number | undefined): (event: RunEvent) => void {
  if (fd === undefined) return () => {}
  try {
    fstatSync(fd)
  } catch {
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', `--json-events ${fd}: no such descriptor is open`)
  }
  return (event) => {
    try {
      const bytes = Buffer.from(toJson(event))
      for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at)
    } catch {
      // What is being done goes on all the same.
    }
  }
}

/** What becomes of a device that a person has to know while a command has the terminal. */
const TOLD: readonly string[] = ['release-requested', 'removed', 'error', 'failed', 'recovered', 'lost']

/** What a person wants to know while the command runs: what does not go as it should. */
function sentence(event: RunEvent): string | null {
  if (event.event === 'device') return TOLD.includes(event.kind) ? event.what : null
  if (event.event !== 'released' || event.gone.length === 0) return null
  return `${event.gone.join(', ')} is gone from the host, and there is nothing to give back`
}
