import { type AssignOptions, assign, Host, type Plan, planAssignment, type Snapshot } from 'vfio'
import { type Config, type Resource, readConfig } from './config.js'
import { toStandardError } from './log.js'
import { type ChosenGroup, chosenGroups, conflictIn } from './offer.js'
import { fits } from './select.js'
import { printable } from './text.js'

export interface BindOptions {
  readonly config: string
  readonly keepGoing?: boolean
  readonly dryRun?: boolean
  readonly json?: boolean
  readonly journal?: string
}

/** What became of one group. */
export interface BoundGroup {
  readonly resources: readonly string[]
  readonly group: number | null
  readonly functions: readonly string[]
  /** What has to be done, or was. */
  readonly steps: Plan['steps']
  /** `null` where it is bound now, or would be. */
  readonly reason: string | null
}

/** `vfio-device-plugin bind`: each group is a transaction of its own, so that one that fails takes no other along. */
export async function bind(options: BindOptions): Promise<number> {
  const config = readConfig(options.config)
  const groups = await bindGroups(new Host(), config, options)
  if (options.json) process.stdout.write(`${printable(JSON.stringify({ groups }))}\n`)
  for (const { functions, steps, reason, resources } of groups) {
    const what = `${resources.join(', ')}: ${functions.join(', ')}`
    if (reason !== null) toStandardError(`${what}: not bound: ${reason}`)
    else if (!options.json) process.stdout.write(`${printable(`${what}: ${outcome(steps, options)}`)}\n`)
    if (options.dryRun && !options.json) {
      for (const { path, value } of steps) process.stdout.write(`${printable(`  ${value} > ${path}`)}\n`)
    }
  }
  return groups.some(({ reason }) => reason !== null) && !options.keepGoing ? 1 : 0
}

function outcome(steps: Plan['steps'], { dryRun }: BindOptions): string {
  if (steps.length === 0) return 'bound to VFIO already'
  return dryRun ? 'would be bound to VFIO' : 'bound to VFIO'
}

/** Binds every group that is selected, or says why not. */
export async function bindGroups(
  host: Host,
  config: Config,
  { dryRun, journal }: Pick<BindOptions, 'dryRun' | 'journal'>,
): Promise<BoundGroup[]> {
  const bound: BoundGroup[] = []
  const first = host.snapshot()
  for (const chosen of chosenGroups(first, config)) {
    const { group, functions, selected } = chosen
    const named = {
      resources: [...selected.keys()].map(({ name }) => name),
      group,
      functions: functions.map(({ address }) => address),
    }
    const refusal = whyNot(chosen)
    if (refusal !== null) {
      bound.push({ ...named, steps: [], reason: refusal })
      continue
    }
    // Anew, because binding the one before may have changed what there is.
    const plan = planFor(bound.length === 0 ? first : host.snapshot(), chosen)
    const blocker = plan.blockers[0]?.reason ?? null
    if (blocker !== null || dryRun) bound.push({ ...named, steps: plan.steps, reason: blocker })
    else bound.push({ ...named, steps: plan.steps, reason: await carryOut(plan, { journal }) })
  }
  return bound
}

function whyNot(chosen: ChosenGroup): string | null {
  const conflict = conflictIn(chosen)
  if (conflict !== null) return conflict
  for (const [resource, own] of chosen.selected) {
    const lost = own.find((device) => !fitsBound(resource, device))
    if (lost !== undefined && !own.some((device) => fitsBound(resource, device)))
      return `${lost.address} is selected by its driver ${lost.driver}, and would not be any more once it is bound to VFIO: select it by address, ids or class`
  }
  return null
}

/** Would it be selected with another driver than it has? */
const fitsBound = ({ select }: Resource, device: Parameters<typeof fits>[0]) =>
  device.vfioRegistered || select.some((selector) => fits({ ...device, driver: 'vfio-pci' }, selector))

/** Without a reset: the kernel resets what VFIO opens, and after a crash of the plugin a container may have it. */
const planFor = (seen: Snapshot, { functions }: ChosenGroup): Plan =>
  planAssignment(
    seen,
    functions.map(({ address }) => address),
    { group: true, reset: 'none' },
  )

async function carryOut(plan: Plan, options: AssignOptions): Promise<string | null> {
  try {
    await assign(plan, options)
    return null
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}
