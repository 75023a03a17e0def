import {
  type Assignment,
  type AssignOptions,
  assign,
  type Plan,
  type PlanOptions,
  planAssignment,
  type ResetPolicy,
  type Snapshot,
} from '../index.js'
import { forced } from './force.js'
import { answer, colour, note, wrap } from './output.js'
import { stoppable } from './signals.js'
import { NOT_READY } from './status.js'

export interface BindOptions {
  readonly driver?: string
  readonly group?: boolean
  readonly ids?: boolean
  readonly reset?: ResetPolicy
  readonly force?: readonly string[]
  readonly dryRun?: boolean
  readonly timeout?: number
  readonly journal?: string
  readonly json?: boolean
}

/** `vfio bind`: takes devices from the host and binds them to VFIO, or with `--dry-run` prints how. */
export async function bind(
  seen: Snapshot,
  addresses: readonly string[],
  options: BindOptions,
): Promise<number> {
  const plan = planAssignment(seen, addresses, planOptions(options))
  if (options.dryRun) {
    answer(plan, options.json, renderPlan)
    return plan.blockers.length > 0 ? NOT_READY : 0
  }
  for (const warning of warnings(plan)) note(`vfio: ${warning}`)
  return await stoppable('putting back what was done', async (signal) => {
    const assignment = await assign(plan, { ...assignOptions(options), signal })
    if (signal.aborted) {
      // It came behind the last step: a person who stops it wants nothing of it.
      await assignment.release()
      throw signal.reason
    }
    const { devices, record } = assignment
    print(plan, { devices, record }, options)
    return 0
  })
}

function print(plan: Plan, bound: Pick<Assignment, 'devices' | 'record'>, options: BindOptions): void {
  answer(bound, options.json, (done) =>
    done.record === null
      ? `${plan.addresses.join(', ')}: bound to VFIO already${plan.steps.length > 0 ? ', and reset' : ', nothing was changed'}\n`
      : done.devices
          .map(({ address, group, driver }) => `${address} is bound to ${driver}, group ${group}\n`)
          .join(''),
  )
}

function planOptions({ driver, group, ids, reset, force }: BindOptions): PlanOptions {
  return {
    ...(driver !== undefined && { driver }),
    ...(group !== undefined && { group }),
    ...(ids !== undefined && { ids }),
    ...(reset !== undefined && { reset }),
    ...(force !== undefined && { force: forced(force) }),
  }
}

function assignOptions({ timeout, journal }: BindOptions): AssignOptions {
  return { deadline: timeout === undefined ? undefined : timeout * 1000, journal }
}

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
