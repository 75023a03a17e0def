import { Option } from 'commander'
import {
  type AssignOptions,
  assign,
  type Plan,
  type PlanOptions,
  planAssignment,
  type ResetPolicy,
  VfioError,
} from '../index.js'
import type { Bound } from './answers.js'
import { NOT_READY } from './exit.js'
import {
  type Common,
  type Declare,
  deadlineOf,
  force,
  forced,
  journal,
  json,
  look,
  run,
  sysfs,
  timeout,
} from './options.js'
import { answer, colour, note, wrap } from './output.js'
import { next, progress, type Verbose, verbose } from './progress.js'
import { stoppable } from './signals.js'

interface BindOptions extends Common, Verbose {
  readonly driver?: string
  readonly group?: boolean
  readonly ids?: boolean
  readonly noiommu?: boolean
  readonly reset?: ResetPolicy
  readonly force?: readonly string[]
  readonly dryRun?: boolean
  readonly timeout?: number
  readonly journal?: string
}

/** `vfio bind`: takes devices from the host and binds them to VFIO, or with `--dry-run` prints how. */
export const bind: Declare = (vfio) => {
  vfio
    .command('bind')
    .description('take devices from the host and bind them to VFIO, all or none')
    .argument('<address...>', 'PCI addresses, or UUIDs of mediated devices')
    .option('--group', 'take every device of their groups')
    .option('--driver <name>', 'VFIO driver: auto takes the best variant driver, else vfio-pci', 'auto')
    .option('--ids', 'bind by adding ids to the driver, which grabs all devices with these ids')
    .option('--noiommu', 'take devices without an IOMMU too: they can reach all memory of the host')
    .addOption(
      new Option('--reset <when>', 'reset the devices').choices(['none', 'before', 'before-and-after']),
    )
    .addOption(force('disturb'))
    .option('--dry-run', 'print each step, and do none')
    .addOption(timeout())
    .addOption(verbose())
    .addOption(journal())
    .addOption(json())
    .addOption(sysfs())
    .action(run(act))
}

async function act(addresses: readonly string[], options: BindOptions): Promise<number> {
  if (options.sysfs !== undefined && !options.dryRun) {
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', '--sysfs is another host: it goes with --dry-run only')
  }
  // Ids may fit any device of the host.
  const around = options.ids ? {} : { around: addresses }
  const seen = look(options, { ...around, overrides: true })
  const plan = planAssignment(seen, addresses, planOptions(options))
  if (options.dryRun) {
    answer(plan, options.json, renderPlan)
    if (plan.blockers.length > 0) return NOT_READY
    if (plan.steps.length > 0) next('the same without --dry-run does it', options.json)
    return 0
  }
  for (const warning of warnings(plan)) note(`vfio: ${warning}`)
  return await stoppable('putting back what was done', async (signal) => {
    const assignment = await assign(plan, { ...assignOptions(options), signal })
    if (signal.aborted) {
      // The signal came after the last step: it still means that nothing is wanted.
      await assignment.release()
      throw signal.reason
    }
    const { devices, record } = assignment
    print(plan, { devices, record }, options)
    const all = plan.addresses.join(' ')
    next(`vfio export qemu ${all}; afterwards vfio release ${all}`, options.json)
    return 0
  })
}

function print(plan: Plan, bound: Bound, options: BindOptions): void {
  answer(bound, options.json, (done) =>
    done.record === null
      ? `${plan.addresses.join(', ')}: bound to VFIO already${plan.steps.length > 0 ? ', and reset' : ', nothing was changed'}\n`
      : done.devices
          .map(({ address, group, driver }) => `${address} is bound to ${driver}, group ${group}\n`)
          .join(''),
  )
}

function planOptions({ driver, group, ids, noiommu, reset, force }: BindOptions): PlanOptions {
  return {
    ...(driver !== undefined && { driver }),
    ...(group !== undefined && { group }),
    ...(ids !== undefined && { ids }),
    ...(noiommu !== undefined && { noIommu: noiommu }),
    ...(reset !== undefined && { reset }),
    ...(force !== undefined && { force: forced(force) }),
  }
}

const assignOptions = (options: BindOptions): AssignOptions => ({
  ...progress(options),
  deadline: deadlineOf(options),
  journal: options.journal,
})

function warnings({ uses, warnings: others }: Plan): string[] {
  return [...uses.filter(({ severity }) => severity === 'warns').map(({ what }) => what), ...others]
}

function renderPlan(plan: Plan): string {
  const lines: string[] = []
  for (const { action, path, value, why } of plan.steps) {
    const what = {
      load: `${path} -- ${value}`,
      write: `echo ${value} > ${path}`,
      reset: `${value} reset through ${path}`,
    }
    lines.push(what[action], colour.faint(wrap(why, 4)))
  }
  if (plan.steps.length === 0 && plan.blockers.length === 0) lines.push('Nothing has to be done.')
  for (const warning of warnings(plan)) lines.push(wrap(warning, 2, `${colour.doubtful('!')} `))
  for (const { reason } of plan.blockers) lines.push(wrap(reason, 2, `${colour.bad('✗')} `))
  return `${lines.join('\n')}\n`
}
