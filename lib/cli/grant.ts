import {
  type Grant,
  grant,
  grantRule,
  parseSize,
  type Revocation,
  revoke,
  type Snapshot,
  VfioError,
} from '../index.js'
import { answer, note, print, toJson } from './output.js'

export interface GrantCommandOptions {
  readonly user: string
  readonly group?: string
  readonly memory?: string
  readonly containers?: number
  readonly udev?: boolean
  readonly journal?: string
  readonly json?: boolean
}

/** `vfio grant`: gives a device's nodes to a user. With `--udev` the output is the rule alone. */
export async function grantTo(
  seen: Snapshot,
  address: string,
  options: GrantCommandOptions,
): Promise<number> {
  const { user, group, udev = false, journal, json = false } = options
  const memory = options.memory === undefined ? undefined : parseSize(options.memory)
  if (memory === undefined && options.containers !== undefined)
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      '--containers says how often --memory is mapped: give that too',
    )
  // First of all: a name that cannot stand in a rule is wrong before anything is changed.
  const rule = udev ? grantRule(seen, address, { user, group }) : null
  const given = await grant(seen, address, { user, group, memory, containers: options.containers, journal })
  if (rule === null) answer(given, json, render)
  else if (json) print(toJson({ ...given, rule }))
  else {
    for (const line of toLines(given)) note(line)
    print(rule)
  }
  return 0
}

function toLines({ address, nodes, memlock, uid }: Grant): string[] {
  const lines = nodes.map(
    ({ path, granted }) =>
      `${path} belongs to uid ${granted.uid}, gid ${granted.gid} now, mode ${granted.mode.toString(8).padStart(4, '0')}`,
  )
  if (memlock && uid === 0) lines.push('root needs no limit on locked memory')
  else if (memlock) {
    lines.push(
      `A VM needs a limit on locked memory of ${memlock.bytes} bytes: ${memlock.arithmetic}`,
      `  for logins, in ${memlock.limits.path}: ${memlock.limits.line}`,
      `  for a service, under [Service]: ${memlock.systemd}`,
    )
  }
  lines.push(`"vfio revoke ${address}" puts it back`)
  return lines
}

const render = (given: Grant) => `${toLines(given).join('\n')}\n`

/** `vfio revoke`: gives a device's nodes back to whom they belonged before. */
export async function revokeFrom(
  address: string,
  { journal, json = false }: { journal?: string; json?: boolean },
): Promise<number> {
  const report = await revoke(address, { journal })
  for (const line of json ? [] : report.changed) note(`vfio: ${line}`)
  for (const line of report.holders) {
    note(
      `vfio: ${report.address}: ${line}, and keeps it until it closes it: end that program to take the device back`,
    )
  }
  answer(report, json, renderRevocation)
  return 0
}

function renderRevocation({ address, restored, kept }: Revocation): string {
  const lines = [
    ...restored.map((path) => `${path} is as it was before the grant`),
    ...kept.map((path) => `${path} is left alone: another grant needs it, or it is gone`),
  ]
  return `${lines.join('\n') || `${address} is granted to nobody now`}\n`
}
