import { type AssignOptions, assess, assign, Host, type Plan, planAssignment, type Snapshot } from 'vfio'
import { type Config, readConfig } from './config.js'
import { toStandardError } from './log.js'
import { type ChosenGroup, chosenGroups, chosenOf, takerOf } from './offer.js'
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

/**
 * Binds every group that is selected, or says why not.
 * @param options what it is carried out with; `dryRun`: nothing is
 */
export async function bindGroups(
  host: Host,
  config: Config,
  options: AssignOptions & { readonly dryRun?: boolean | undefined },
): Promise<BoundGroup[]> {
  const bound: BoundGroup[] = []
  let seen = host.snapshot()
  for (const chosen of chosenGroups(seen, config)) {
    const { group, functions, selected } = chosen
    const { steps, reason } = await bindGroup(seen, chosen, config, options)
    bound.push({
      resources: [...selected.keys()].map(({ name }) => name),
      group,
      functions: functions.map(({ address }) => address),
      steps,
      reason,
    })
    // Binding one group may change what others depend on.
    if (steps.length > 0) seen = host.snapshot()
  }
  return bound
}

async function bindGroup(
  seen: Snapshot,
  chosen: ChosenGroup,
  config: Config,
  options: AssignOptions & { readonly dryRun?: boolean | undefined },
): Promise<Pick<BoundGroup, 'steps' | 'reason'>> {
  const refusal = whyNot(chosen, config)
  if (refusal !== null) return { steps: [], reason: refusal }
  const addresses = chosen.functions.map(({ address }) => address).filter((address) => seen.has(address))
  // Without a reset: VFIO resets what it opens, and a container may have some of them.
  const plan = planAssignment(seen, addresses, { group: true, reset: 'none' })
  if (plan.toBind.length === 0) {
    // What is open already is so by who was given it.
    const { verdict, reason } = assess(seen, addresses[0] ?? '')
    return { steps: [], reason: verdict === 'ready' ? null : reason }
  }
  const [blocker] = plan.blockers
  if (blocker !== undefined) return { steps: [], reason: blocker.reason }
  if (options.dryRun === true) return { steps: plan.steps, reason: null }
  try {
    await assign(plan, options)
    return { steps: plan.steps, reason: null }
  } catch (error) {
    return { steps: [], reason: (error as Error).message }
  }
}

/** What the plugin would not offer then is not taken from the host. */
function whyNot({ functions, selected }: ChosenGroup, { resources }: Config): string | null {
  const bound = functions.map((device) =>
    device.vfioRegistered ? device : { ...device, driver: 'vfio-pci' },
  )
  const then = chosenOf(bound, resources)
  if (then.selected.size > 0) {
    const taker = takerOf(then)
    return typeof taker === 'string' ? taker : null
  }
  const [lost] = [...selected.values()].flat()
  return `${lost?.address} is selected by its driver ${lost?.driver}, and would not be any more once it is bound to VFIO: select it by address, ids or class`
}
