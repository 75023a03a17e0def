import { Option } from 'commander'
import {
  type Assessment,
  agreesWithKernel,
  askKernel,
  assess,
  assessGroup,
  type KernelAnswer,
  type Snapshot,
  VfioError,
  VfioSystemError,
} from '../index.js'
import { printable } from '../text.js'
import type { Checked } from './answers.js'
import { KERNEL_REFUSED, NOT_READY } from './exit.js'
import { failedBy } from './failure.js'
import { type Common, type Declare, json, look, run, sysfs } from './options.js'
import { answer, colour, note, print, toJson, wrap } from './output.js'
import { next, waiting } from './progress.js'
import { verdictColour } from './words.js'

interface Options extends Common {
  readonly askKernel?: boolean
}

/** `vfio check`: the assessment of a device, or of each assignable member of a group. */
export const check: Declare = (vfio) => {
  vfio
    .command('check')
    .description('can it be given away, and reset? Exit status 0 ready, 1 not ready, 3 the kernel refused')
    .argument('<address|group:N>', 'PCI address, UUID of a mediated device, or the members of a group')
    .addOption(json())
    .addOption(sysfs())
    .addOption(
      new Option('--ask-kernel', 'open it and ask the kernel too; this resets the device').conflicts('sysfs'),
    )
    .action(run(act))
}

async function act(target: string, options: Options): Promise<number> {
  const seen = look(options, target.startsWith('group:') ? {} : { around: [target] })
  const group = /^group:(.*)$/.exec(target)?.[1]
  let assessments: Checked[] =
    group === undefined
      ? seen.named(target).map((device) => assess(seen, 'uuid' in device ? device.uuid : device.address))
      : assessGroup(seen, groupNumber(group))
  let refusal: VfioSystemError | null = null
  if (options.askKernel) {
    const asked: Checked[] = []
    for (const assessment of assessments) {
      const answered = await ask(seen, assessment)
      if (answered instanceof VfioSystemError) refusal = answered
      asked.push(
        answered instanceof VfioSystemError
          ? { ...assessment, error: failedBy(answered) }
          : { ...assessment, kernel: answered },
      )
    }
    assessments = asked
  }
  // A device is asked for by itself, and answered by itself.
  if (options.json && group === undefined && assessments.length === 1) print(toJson(assessments[0]))
  else
    answer(assessments, options.json, (all) =>
      all.length > 0 ? render(all) : renderNone(seen, target, Number(group)),
    )
  if (refusal) {
    note(`vfio: the kernel refused: ${refusal.message}`)
    return KERNEL_REFUSED
  }
  if (!options.json) nextOf(assessments)
  return assessments.length > 0 && assessments.every(({ verdict }) => verdict === 'ready') ? 0 : NOT_READY
}

/** What a person does with such verdicts; nothing comes next where one is blocked. */
function nextOf(assessments: readonly Assessment[]): void {
  const addresses = assessments.map(({ address }) => address)
  if (addresses.length === 0 || assessments.some(({ verdict }) => verdict === 'blocked')) return
  const isAlone = assessments.every(({ toBind }) => toBind.every((address) => addresses.includes(address)))
  next(
    assessments.every(({ verdict }) => verdict === 'ready')
      ? `vfio export qemu ${addresses.join(' ')}`
      : `vfio bind ${addresses.join(' ')}${isAlone ? '' : ' --group'}`,
  )
}

function groupNumber(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw new VfioError(
    'ERR_VFIO_BAD_ARGUMENT',
    `"${text}" is not a group number: expected group:N, like group:74`,
  )
}

async function ask(seen: Snapshot, { address, group }: Assessment): Promise<KernelAnswer | VfioSystemError> {
  // What is in no group is never opened.
  if (group !== null) note(`vfio: opening ${address} through VFIO to ask the kernel, which resets it`)
  try {
    return await waiting(`opening ${address}`, askKernel(seen, address))
  } catch (error) {
    if (error instanceof VfioSystemError) return error
    throw error
  }
}

const render = (assessments: readonly Assessment[]) => assessments.map(renderOne).join('\n')

function renderNone(seen: Snapshot, target: string, number: number): string {
  const { members, others } = seen.group(number)
  const names = others.map(({ name }) => name).join(', ')
  const what =
    members.length > 0 ? 'only bridges' : names === '' ? 'it is empty' : `no PCI function, only ${names}`
  return `${target} has no member that could be assigned: ${what}\n`
}

/** An assessment as a person reads it. */
export function renderOne(assessment: Assessment): string {
  const { address, group, verdict, reason, toBind, variant, viability, reset, uses, kernel } = assessment
  const lines = [
    `${colour.strong(address)}  ${group === null ? 'in no group' : `group ${group}`}  ${verdictColour(verdict)(verdict)}`,
    wrap(reason, 2),
  ]
  if (toBind.length > 0) lines.push(wrap(toBind.join(' '), 11, '  to bind  '))
  if (variant !== undefined && toBind.includes(address))
    lines.push(wrap(`to ${printable(variant)}, the variant driver for this device`, 11))
  if (viability) {
    lines.push(`  viable   ${viability.viable ? 'yes' : 'no'}, by the rule ${viability.rule}`)
    for (const member of viability.members) {
      lines.push(wrap(member.reason, 13, `           ${member.blocks ? colour.bad('✗') : colour.good('✓')} `))
    }
  }
  for (const [index, use] of uses.entries()) {
    const mark = use.severity === 'blocks' ? colour.bad('✗') : colour.doubtful('!')
    const what = use.address === address ? use.what : `${use.address}: ${use.what}`
    lines.push(wrap(what, 13, `  ${index === 0 ? 'in use ' : '       '}  ${mark} `))
  }
  lines.push(wrap(reset.function.reason, 11, '  reset    '))
  // What could not be judged has one reason for both.
  if (reset.hot.reason !== reset.function.reason) lines.push(wrap(reset.hot.reason, 11))
  if (kernel) lines.push(...renderKernel(kernel, assessment))
  return `${lines.join('\n')}\n`
}

function renderKernel(kernel: KernelAnswer, assessment: Assessment): string[] {
  const hot =
    typeof kernel.hotReset === 'string'
      ? kernel.hotReset
      : kernel.hotReset.map(({ address }) => address).join(' ')
  return [
    wrap(
      `viable: ${kernel.viable ? 'yes' : 'no'}; function reset: ${kernel.functionReset ? 'yes' : 'no'}; hot reset: ${hot}`,
      11,
      '  kernel   ',
    ),
    wrap(
      agreesWithKernel(assessment)
        ? colour.good('prediction and kernel agree')
        : colour.bad('prediction and kernel differ: the kernel is right, please report this'),
      11,
    ),
  ]
}
