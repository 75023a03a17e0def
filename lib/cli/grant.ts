import { InvalidArgumentError, Option } from 'commander'
import { type Grant, grantRule, grant as grantTo, parseSize, VfioError } from '../index.js'
import { type Declare, journal, json, look, memory, run } from './options.js'
import { answer, note, print, toJson } from './output.js'

interface GrantCommandOptions {
  readonly user: string
  readonly group?: string
  readonly memory?: string
  readonly containers?: number
  readonly udev?: boolean
  readonly journal?: string
  readonly json?: boolean
}

/** `vfio grant`: gives a device's nodes to a user. With `--udev` the output is the rule alone. */
export const grant: Declare = (vfio) => {
  vfio
    .command('grant')
    .description('let a user open a device that is bound to VFIO')
    .argument('<address>', 'PCI address, like 59:00.0, or the UUID of a mediated device')
    .requiredOption('--user <name>', 'name or uid of the user')
    .option('--group <name>', 'name or gid of a group that may open it too')
    .addOption(memory())
    .addOption(
      new Option(
        '--containers <count>',
        'how many containers map that memory: with a virtual IOMMU in the guest one for each group',
      ).argParser(count),
    )
    .option('--udev', 'print the udev rule that makes it last')
    .addOption(journal())
    .addOption(json())
    .action(run(act))
}

function count(text: string): number {
  if (/^\d{1,4}$/.test(text) && Number(text) > 0) return Number(text)
  throw new InvalidArgumentError('expected a number, like 2.')
}

async function act(address: string, options: GrantCommandOptions): Promise<number> {
  const seen = look({}, { around: [address] })
  const { user, group, udev = false, journal, json = false } = options
  const memory = options.memory === undefined ? undefined : parseSize(options.memory)
  if (memory === undefined && options.containers !== undefined)
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      '--containers says how often --memory is mapped: give that too',
    )
  // First of all: a name that cannot stand in a rule is wrong before anything is changed.
  const rule = udev ? grantRule(seen, address, { user, group }) : null
  const given = await grantTo(seen, address, { user, group, memory, containers: options.containers, journal })
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
