import { existsSync, readFileSync } from 'node:fs'
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { Host, type Snapshot, type SnapshotOptions, VfioError } from '../index.js'
import { type BindOptions, bind } from './bind.js'
import { check } from './check.js'
import { doctor } from './doctor.js'
import { declareHandOn } from './hand-on.js'
import { list } from './list.js'
import { note, visible } from './output.js'
import { type GiveBackOptions, giveBack, putInOrder, showStatus } from './release.js'
import { type RescanCommandOptions, type ResetCommandOptions, rescan, reset } from './reset.js'
import { show } from './show.js'
import { statusOf, WRONG_USAGE } from './status.js'

interface Common {
  readonly json?: boolean
  readonly sysfs?: string
}

const json = () => new Option('--json', 'print what the API returns, as JSON')
const sysfs = () => new Option('--sysfs <dir>', 'look at another tree in place of /sys')

const journal = () => new Option('--journal <dir>', 'directory of the journal (default: /run/vfio)')
const rescanOption = () =>
  new Option('--rescan', 'remove what cannot be bound again, and let the kernel find it anew')
const timeout = () =>
  new Option('--timeout <seconds>', 'how long the kernel may take for one change (default: 30)').argParser(
    seconds,
  )

function seconds(text: string): number {
  if (/^\d{1,6}$/.test(text) && Number(text) > 0) return Number(text)
  throw new InvalidArgumentError('expected a number of seconds, like 30.')
}

const collect = (value: string, earlier: string[] = []) => [...earlier, value]

/** Overrides are read, which may take seconds, only where something rests on them or shows them. */
type Look = SnapshotOptions & { readonly overrides?: boolean }

function look({ sysfs: root }: Common, { overrides = false, ...options }: Look = {}): Snapshot {
  const lookAt = (host: Host) =>
    overrides ? host.snapshot(options) : host.look({ ...options, overrides: new Map() })
  if (root === undefined) return lookAt(new Host())
  if (!existsSync(`${root}/bus/pci/devices`)) {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      `${oneLine(root)} is not a sysfs tree: it has no bus/pci/devices`,
    )
  }
  return lookAt(new Host({ sysfs: root }))
}

function version(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  return String((manifest as { version: unknown }).version)
}

/** What was typed may have line breaks in it; an error is one line all the same. */
const oneLine = (text: string) => text.trim().replace(/\s+/g, ' ')

/** Runs a command and keeps its exit status. */
function run<A extends readonly unknown[]>(
  command: (...args: A) => number | Promise<number>,
): (...args: A) => Promise<void> {
  return async (...args) => {
    process.exitCode = await command(...args)
  }
}

function program(): Command {
  const vfio = new Command('vfio')
    .description('See, judge, open and reset PCI devices for assignment through VFIO')
    .exitOverride()
    .showSuggestionAfterError(false)
    .helpCommand(false)
    // Long command lines leave little room beside them; the default would rather exceed 80 columns.
    .configureHelp({ minWidthToWrap: 20 })
    .configureOutput({
      outputError: (text, write) => write(`${visible(oneLine(text)).replace(/^error: /, 'vfio: ')}\n`),
    })
  vfio.option('-V, --version', 'print the version').on('option:version', () => {
    process.stdout.write(`${version()}\n`)
    throw new CommanderError(0, 'commander.version', '')
  })
  vfio
    .command('list')
    .description('all groups and devices: driver, verdict, what blocks, reset')
    .addOption(json())
    .addOption(sysfs())
    .action(run((options: Common) => list(look(options, { brief: true }), options)))
  vfio
    .command('show')
    .description('everything about one device, and its assessment')
    .argument('<address>', 'PCI address, like 59:00.0')
    .addOption(json())
    .addOption(sysfs())
    .action(
      run((address: string, options: Common) =>
        show(look(options, { around: [address], overrides: true }), address, options),
      ),
    )
  vfio
    .command('check')
    .description('can it be given away, and reset? Exit status 0 ready, 1 not ready, 3 the kernel refused')
    .argument('<address|group:N>', 'PCI address, or the members of a group')
    .addOption(json())
    .addOption(sysfs())
    .addOption(
      new Option('--ask-kernel', 'open it and ask the kernel too; this resets the device').conflicts('sysfs'),
    )
    .action(
      run((target: string, options: Common & { askKernel?: boolean }) =>
        check(look(options, target.startsWith('group:') ? {} : { around: [target] }), target, options),
      ),
    )
  vfio
    .command('reset')
    .description('reset a device that is bound to VFIO, or any that is not in use by a method of the kernel')
    .argument('<address>', 'PCI address, like 59:00.0')
    .addOption(
      new Option('--hot', 'reset its whole slot or bus; all that is there must be bound to VFIO').conflicts(
        'method',
      ),
    )
    .option('--method <name>', 'by this one of the methods that the kernel has for it, like flr or bus')
    .option('--force <kind>', 'with --method: disturb this kind of use (may be given again)', collect)
    .addOption(timeout())
    .addOption(json())
    .action(
      run((address: string, options: ResetCommandOptions) =>
        reset(look({}, { around: [address] }), address, options),
      ),
    )
  vfio
    .command('rescan')
    .description('remove a device, and let the kernel find it anew')
    .argument('<address>', 'PCI address, like 59:00.0')
    .option('--force <kind>', 'disturb this kind of use (may be given again)', collect)
    .addOption(timeout())
    .addOption(journal())
    .addOption(json())
    .action(
      run((address: string, options: RescanCommandOptions) =>
        rescan(look({}, { around: [address] }), address, options),
      ),
    )
  vfio
    .command('bind')
    .description('take devices from the host and bind them to VFIO, all or none')
    .argument('<address...>', 'PCI addresses')
    .option('--group', 'take every device of their groups')
    .option('--driver <name>', 'VFIO driver: auto takes the best variant driver, else vfio-pci', 'auto')
    .option('--ids', 'bind by adding ids to the driver, which grabs all devices with these ids')
    .addOption(
      new Option('--reset <when>', 'reset the devices').choices(['none', 'before', 'before-and-after']),
    )
    .option('--force <kind>', 'disturb this kind of use (may be given again)', collect)
    .option('--dry-run', 'print each step, and do none')
    .addOption(timeout())
    .addOption(journal())
    .addOption(json())
    .addOption(sysfs())
    .action(
      run((addresses: string[], options: Common & BindOptions) => {
        if (options.sysfs !== undefined && !options.dryRun) {
          throw new VfioError('ERR_VFIO_BAD_ARGUMENT', '--sysfs is another host: it goes with --dry-run only')
        }
        // Ids may fit any device of the host.
        return bind(
          look(options, { ...(options.ids ? {} : { around: addresses }), overrides: true }),
          addresses,
          options,
        )
      }),
    )
  vfio
    .command('release')
    .description('give devices back to the host, as they were')
    .argument('[address...]', 'PCI addresses')
    .option('--all', 'everything that is assigned')
    .addOption(rescanOption())
    .addOption(timeout())
    .addOption(journal())
    .addOption(json())
    .action(run((addresses: string[], options: GiveBackOptions) => giveBack(addresses, options)))
  vfio
    .command('status')
    .description('what is assigned by whom, and what is half done')
    .addOption(journal())
    .addOption(json())
    .action(run((options: GiveBackOptions) => showStatus(options)))
  vfio
    .command('recover')
    .description('put in order what a crash left half done')
    .addOption(rescanOption())
    .addOption(timeout())
    .addOption(journal())
    .addOption(json())
    .action(run((options: GiveBackOptions) => putInOrder(options)))
  declareHandOn(vfio, { json, sysfs, journal, timeout, look, run })
  vfio
    .command('doctor')
    .description('is this host ready for VFIO, and what to do where not. Exit status 0 only when ready')
    .addOption(json())
    .addOption(sysfs())
    .action(run((options: Common) => doctor(look(options, { brief: true }), options)))
  vfio
    .command('help')
    .description('this text, or that of a command')
    .argument('[command]')
    .action((name: string | undefined) => {
      const found = name === undefined ? vfio : vfio.commands.find((command) => command.name() === name)
      if (found) found.outputHelp()
      else vfio.error(`error: unknown command '${name}'`)
    })
  return vfio
}

function fail(error: unknown): void {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : WRONG_USAGE
    return
  }
  const { message, stack } = error instanceof Error ? error : new Error(String(error))
  // A stack, and the help page of an addon that does not load, have lines of their own.
  const isPage = process.env.VFIO_DEBUG || (error instanceof VfioError && error.code === 'ERR_VFIO_ADDON')
  const text = process.env.VFIO_DEBUG ? (stack ?? message) : `vfio: ${message}`
  for (const line of isPage ? text.split('\n') : [text]) note(line)
  process.exitCode = statusOf(error)
}

// A reader that goes away early (`vfio list | head`) has seen what it wanted; output that is lost otherwise is a failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') fail(new VfioError('ERR_VFIO_BAD_FILE', `standard output: ${error.message}`))
})
// Who cannot be told is not told: what is being done goes on, and the status says how it ended.
process.stderr.on('error', () => {})

// The name by which the journal, ps and error messages of others know this program.
process.title = 'vfio'

try {
  const vfio = program()
  if (process.argv.length <= 2) vfio.outputHelp()
  else await vfio.parseAsync()
} catch (error) {
  fail(error)
}
