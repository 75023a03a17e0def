import { Option } from 'commander'
import {
  builtinModules,
  type CommandLineAdvice,
  checkPersistence,
  detectBootLoader,
  detectInitramfs,
  findModprobe,
  Host,
  type Initramfs,
  type PersistBy,
  type PersistCheck,
  type PersistPlan,
  type PersistReport,
  planPersistence,
  readPersistence,
  removePersistence,
  VfioError,
  writePersistence,
} from '../index.js'
import { NOT_READY } from './exit.js'
import { type Common, collect, type Declare, force, forced, json, look, run, sysfs } from './options.js'
import { answer, colour, note, print, toJson, wrap } from './output.js'
import { waiting } from './progress.js'

interface PersistCommandOptions extends Common {
  readonly by?: PersistBy
  readonly group?: boolean
  readonly noiommu?: boolean
  readonly force?: readonly string[]
  readonly option?: readonly string[]
  readonly initramfs?: Initramfs | 'auto'
  readonly write?: boolean
  readonly remove?: boolean
  readonly check?: boolean
  readonly root?: string
}

const INITRAMFS_CHOICES: readonly (Initramfs | 'auto')[] = [
  'auto',
  'initramfs-tools',
  'proxmox',
  'dracut',
  'dracut-uki',
  'sdbootutil',
  'dracut-rebuild',
  'reinstall-kernels',
  'rpm-ostree',
  'transactional-update',
  'mkinitcpio',
  'mkinitcpio-single',
  'booster',
  'booster-images',
  'mkinitfs',
  'nixos',
  'guix',
  'talos',
  'ignition',
  'machine-config',
  'truenas',
  'unraid',
  'image',
  'volatile',
  'none',
]

/** `vfio persist`: prints, writes or takes away what binds devices at boot, or looks what came of it. */
export const persist: Declare = (vfio) => {
  vfio
    .command('persist')
    .description('what binds devices to VFIO at every boot: print it, write it, take it away')
    .argument('[address...]', 'PCI addresses: all that are to last')
    .addOption(
      new Option('--by <what>', 'tell devices by address (default), or by ids').choices(['address', 'ids']),
    )
    .addOption(
      new Option('--initramfs <tool>', 'what builds the initramfs (default: auto)').choices(
        INITRAMFS_CHOICES,
      ),
    )
    .option('--group', 'take every device of their groups')
    .option('--noiommu', 'take devices without an IOMMU too: they can reach all memory of the host')
    .addOption(force('let the next boot do without'))
    .option('--option <name=value>', 'a parameter for the modules of VFIO (may be given again)', collect)
    .option('--write', 'write the files')
    .option('--remove', 'take away what was written, and put back what was there')
    .option('--check', 'after boot: is everything bound as it was persisted? Exit status 0 only then')
    .option('--root <dir>', 'another file tree in place of /')
    .addOption(json())
    .addOption(sysfs())
    .action(run(act))
}

async function act(addresses: readonly string[], options: PersistCommandOptions): Promise<number> {
  const { root, write = false, json = false } = options
  if (options.sysfs !== undefined && write && root === undefined) {
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', '--sysfs is another host: --write needs its --root too')
  }
  const seen = () => look(options, { overrides: true })
  const { paths } = options.sysfs === undefined ? new Host() : new Host({ sysfs: options.sysfs })
  const isPlanning =
    write ||
    addresses.length > 0 ||
    [options.by, options.initramfs, options.group, options.noiommu, options.force, options.option].some(
      Boolean,
    )
  if (options.remove || options.check) {
    const alone = options.remove ? '--remove takes everything away' : '--check looks at everything'
    if (isPlanning || (options.remove && options.check))
      throw new VfioError('ERR_VFIO_BAD_ARGUMENT', `${alone}: give it alone`)
    if (options.remove) {
      answer(await removePersistence({ root }), json, renderReport)
      return 0
    }
    const check = checkPersistence(seen(), readPersistence({ root }))
    answer(check, json, renderCheck)
    return check.ok ? 0 : NOT_READY
  }
  // Beside another host's sysfs this machine's root tells nothing of that host.
  const isKnown = options.sysfs === undefined || root !== undefined
  const wanted = options.initramfs ?? 'auto'
  const detected = isKnown ? detectInitramfs({ root }) : undefined
  const plan = planPersistence(seen(), addresses, {
    by: options.by,
    group: options.group,
    noIommu: options.noiommu,
    force: forced(options.force),
    initramfs: wanted === 'auto' ? detected : wanted,
    moduleOptions: options.option,
    builtin: builtinModules(paths.modules),
    ...(isKnown && { bootLoader: detectBootLoader({ root }), modprobe: findModprobe({ root }) }),
  })
  const reasons = plan.blockers.map(({ reason }) => reason)
  if (!json) {
    for (const warning of plan.warnings) if (!reasons.includes(warning)) note(`vfio: ${warning}`)
  }
  if (reasons.length > 0 && (write || !json)) {
    if (plan.commandLine) note(`vfio: ${commandLineSentence(plan.commandLine)}`)
    throw new VfioError(plan.blockers[0]?.code ?? 'ERR_VFIO_NOT_VIABLE', reasons.join('; '))
  }
  if (!write) {
    // The text of files, which has line ends, is made of checked words alone.
    print(json ? toJson(plan) : renderPlan(plan))
    return reasons.length > 0 ? NOT_READY : 0
  }
  const report = await waiting('writing the files', writePersistence(plan, { root }))
  answer({ plan, report }, json, (done) => `${renderReport(done.report)}${renderRest(done.plan)}`)
  return 0
}

function commandLineSentence({ how, add, remove }: CommandLineAdvice): string {
  const reasons = [...add, ...remove].map(({ parameter, why }) => `${parameter}: ${why}`)
  return `kernel command line: ${how} (${reasons.join('; ')})`
}

function renderPlan(plan: PersistPlan): string {
  const parts = plan.files.map(
    ({ path, content, kind }) => `# ${path}${kind === 'block' ? ' (added to it)' : ''}\n${content}`,
  )
  for (const { path, content, why } of plan.byHand) parts.push(`# ${path}, by hand: ${why}\n${content}`)
  if (plan.commandLine) parts.push(`# ${commandLineSentence(plan.commandLine)}\n`)
  if (plan.rebuild) parts.push(`# then: ${plan.rebuild}\n`)
  return parts.join('\n')
}

/** What is left to do after everything that can be written was written. */
function renderRest({ byHand, commandLine }: PersistPlan): string {
  const lines = byHand.map(({ path, content }) => `By hand, in ${path}: ${content.trim()}`)
  if (commandLine) lines.push(`Missing on the ${commandLineSentence(commandLine)}`)
  return lines.map((line) => `${line}\n`).join('')
}

function renderReport({ written, removed, unchanged, backups, dropped, rebuild }: PersistReport): string {
  const lines = [
    ...written.map((path) => `wrote ${path}`),
    ...backups.map((path) => `kept what was there as ${path}`),
    ...removed.map((path) => `took the lines of vfio out of ${path}`),
    ...dropped.map((address) => `${address} does not last over boot any more`),
  ]
  if (lines.length === 0) {
    return unchanged.length > 0
      ? 'Everything is written already: nothing was changed.\n'
      : 'There was nothing to change.\n'
  }
  if (rebuild) lines.push(`Now run: ${rebuild}`)
  return `${lines.join('\n')}\n`
}

function renderCheck({ devices, others, problems }: PersistCheck): string {
  const mark = (good: boolean) => `${good ? colour.good('✓') : colour.bad('✗')} `
  const lines = devices.map(({ ok, reason }) => wrap(reason, 2, mark(ok)))
  for (const { source, text, devices: about, differs } of others) {
    const whom = about.length > 0 ? `, which is about ${about.join(', ')}` : ''
    lines.push(wrap(`${source} also has: ${text}${whom}`, 2, differs ? mark(false) : '  '))
  }
  for (const problem of problems) lines.push(wrap(problem, 2, `${colour.doubtful('!')} `))
  return `${lines.join('\n')}\n`
}
