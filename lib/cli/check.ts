import { Option } from 'commander'
import { cut } from '../columns.js'
import {
  type Assessment,
  agreesWithKernel,
  askKernel,
  assess,
  assessGroup,
  harmsOf,
  type KernelAnswer,
  kindWord,
  resetWord,
  type Snapshot,
  shortAddress,
  shortly,
  VfioError,
  VfioSystemError,
  verdictWord,
} from '../index.js'
import { printable } from '../text.js'
import type { Checked } from './answers.js'
import { KERNEL_REFUSED, NOT_READY } from './exit.js'
import { failedBy } from './failure.js'
import { type Common, type Declare, json, look, run, sysfs } from './options.js'
import { answer, colour, note, print, toJson, width, wrap } from './output.js'
import { next, waiting } from './progress.js'
import { along, headOf, verdictColour } from './words.js'

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
      all.length > 0 ? render(all, seen) : renderNone(seen, target, Number(group)),
    )
  if (refusal) {
    note(`vfio: the kernel refused: ${refusal.message}`)
    return KERNEL_REFUSED
  }
  if (!options.json) nextOf(assessments)
  return assessments.length > 0 && assessments.every(({ verdict }) => verdict === 'ready') ? 0 : NOT_READY
}

/** What a person does with such verdicts; nothing comes next where one is blocked, or reaches all memory. */
function nextOf(assessments: readonly Assessment[]): void {
  const addresses = assessments.map(({ address }) => address)
  if (addresses.length === 0 || assessments.some(({ verdict, noIommu }) => verdict === 'blocked' || noIommu))
    return
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

/** What a look knows of devices. */
type Seen = Pick<Snapshot, 'has' | 'device' | 'mediatedDevice' | 'host'>

const render = (assessments: readonly Assessment[], seen: Seen) =>
  assessments
    .map(
      (assessment) =>
        `${colour.strong(cut(nameOf(seen, assessment.address), width()))}\n${renderOne(assessment, seen)}`,
    )
    .join('\n')

/** As `vfio list` names it. */
function nameOf(seen: Seen, name: string): string {
  if (seen.has(name)) return headOf(seen.device(name))
  const { uuid, type } = seen.mediatedDevice(name)
  return `${uuid} mdev: ${printable(type ?? 'of no type')}`
}

function renderNone(seen: Snapshot, target: string, number: number): string {
  const { members, others } = seen.group(number)
  const names = others.map(({ name }) => name).join(', ')
  const what =
    members.length > 0 ? 'only bridges' : names === '' ? 'it is empty' : `no PCI function, only ${names}`
  return `${target} has no member that could be assigned: ${what}\n`
}

/**
 * An assessment as a person reads it, in the words of `vfio list`.
 * @param isBelow other lines about the device, with its group, stand above
 */
export function renderOne(assessment: Assessment, seen: Seen, { isBelow = false } = {}): string {
  const { address, group, reason, toBind, viability, reset, uses, kernel } = assessment
  const labels = isBelow ? SHOW_LABELS : CHECK_LABELS
  const lines: string[] = []
  const line = (label: string, text: string, mark = '') => {
    const first = `  ${label.padEnd(labels)} ${mark}`
    lines.push(wrap(text, labels + (mark === '' ? 3 : 5), first))
  }
  if (!isBelow) line('group', String(group ?? '-'))
  line('driver', driverText(assessment, seen))
  line('verdict', `${verdictText(assessment, seen)}: ${shortly(reason)}`)
  const others = toBind.filter((member) => member !== address)
  for (const [index, other] of others.entries()) line(index === 0 ? 'with' : '', withText(seen, other))
  if (viability) {
    line('viable', `${viability.viable ? 'yes' : 'no'}, by the rule ${viability.rule}`)
    for (const member of viability.members)
      line('', shortly(member.reason), member.blocks ? colour.bad('✗ ') : colour.good('✓ '))
  }
  for (const [index, use] of uses.entries()) {
    const what = use.address === address ? use.what : `${use.address}: ${use.what}`
    const mark = use.severity === 'blocks' ? colour.bad('✗ ') : colour.doubtful('! ')
    line(index === 0 ? 'used' : '', `${kindWord(use.kind)}: ${shortly(what)}`, mark)
  }
  line(
    'reset',
    `${resetWord({ resetScope: reset.scope, resetOnceBound: assessment.resetOnceBound })}: ${shortly(reset.function.reason)}`,
  )
  // What could not be judged has one reason for both.
  if (reset.hot.reason !== reset.function.reason) line('', shortly(reset.hot.reason))
  if (kernel) {
    for (const [index, text] of kernelTexts(kernel, assessment).entries())
      line(index === 0 ? 'kernel' : '', text)
  }
  return `${lines.join('\n')}\n`
}

/** How wide the names are at the left: what is to say, and with all that `vfio show` has. */
const CHECK_LABELS = 8
const SHOW_LABELS = 12

/** Nobody gives bridges away, so that none is blocked. */
function verdictText(assessment: Assessment, seen: Seen): string {
  const { address, verdict, uses } = assessment
  if (seen.has(address) && verdict === 'blocked' && seen.device(address).headerType !== 'normal') return '-'
  const isHarmful = verdict !== 'blocked' && harmsOf({ uses }).length > 0
  const word = (isHarmful ? colour.bad : verdictColour(verdict))(verdictWord(assessment))
  return [word, along(assessment)].filter(Boolean).join(' ')
}

/** What drives it, and what would once it is bound. */
function driverText({ address, toBind, variant }: Assessment, seen: Seen): string {
  const { driver } = seen.has(address) ? seen.device(address) : seen.mediatedDevice(address)
  const now = printable(driver ?? '-')
  if (!toBind.includes(address) || !seen.has(address)) return now
  if (variant !== undefined)
    return `${now}, then ${printable(variant)}, the variant driver that modules.alias names for it`
  const isUnknown = seen.host.variantsUnknown === true
  return `${now}, then vfio-pci${isUnknown ? ' (variant drivers are not known: no modules.alias can be read)' : ''}`
}

/** What has to come along. */
function withText(seen: Seen, name: string): string {
  if (!seen.has(name)) return printable(name)
  const device = seen.device(name)
  return `${headOf(device)} (${printable(device.driver ?? 'no driver')})`
}

function kernelTexts(kernel: KernelAnswer, assessment: Assessment): readonly string[] {
  const hot =
    typeof kernel.hotReset === 'string'
      ? kernel.hotReset
      : kernel.hotReset.map(({ address }) => shortAddress(address)).join(' ')
  return [
    `viable: ${kernel.viable ? 'yes' : 'no'}; function reset: ${kernel.functionReset ? 'yes' : 'no'}; hot reset: ${hot}`,
    agreesWithKernel(assessment)
      ? colour.good('prediction and kernel agree')
      : colour.bad('prediction and kernel differ: the kernel is right, please report this'),
  ]
}
