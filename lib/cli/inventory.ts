import { Option } from 'commander'
import { cut } from '../columns.js'
import {
  classWord,
  exportInventory,
  exportNodeFeatures,
  type Inventory,
  type InventoryDevice,
  isFree,
  isOfMachine,
  shortName,
  VfioError,
  writeNodeFeatures,
} from '../index.js'
import { type Common, type Declare, json, look, run, sysfs } from './options.js'
import { answer, colour, print, table, toJson, width, wrap } from './output.js'
import { mediatedLines } from './overview.js'

interface InventoryOptions extends Common {
  readonly nfd?: boolean
  /** `true`: in its usual place. */
  readonly write?: true | string
}

/** `vfio inventory`: what fleets collect of a host, and the labels of a Kubernetes node. */
export const inventory: Declare = (vfio) => {
  vfio
    .command('inventory')
    .description('what a fleet collects: the host, its groups and devices, with the attributes of DRA')
    .option('--nfd', 'labels of a Kubernetes node instead, as a file of Node Feature Discovery')
    .addOption(
      new Option(
        '--write [dir]',
        'with --nfd: write that file (default: /etc/kubernetes/node-feature-discovery/features.d)',
      ),
    )
    .addOption(json())
    .addOption(sysfs())
    .action(run(act))
}

async function act(options: InventoryOptions): Promise<number> {
  if (options.write !== undefined && !options.nfd) {
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', '--write is for the file of --nfd: give both, or neither')
  }
  const seen = look(options)
  if (!options.nfd) {
    answer(exportInventory(seen), options.json, render)
    return 0
  }
  const features = exportNodeFeatures(seen)
  if (options.write === undefined) {
    print(options.json ? toJson(features) : features.text)
    return 0
  }
  const report = await writeNodeFeatures(features.text, options.write === true ? undefined : options.write)
  answer({ ...features, ...report }, options.json, ({ path, changed }) =>
    changed ? `wrote ${path}\n` : `${path} says that already\n`,
  )
  return 0
}

function render(all: Inventory): string {
  const { host, groups, devices, mediated = [], unseen } = all
  const lines = [
    wrap(sentenceOf(host), 0),
    wrap(
      `${several(devices.length, 'function')}, ${several(groups.length, 'group')}: ${countOf(groups, 'ready')} ready, ${countOf(groups, 'bindable')} bindable, ${countOf(groups, 'blocked')} blocked`,
      0,
    ),
  ]
  const shown = devices.filter(
    ({ bridge, verdict, class: code }) => !bridge && (verdict === 'ready' || !isOfMachine(code)),
  )
  if (shown.length > 0) lines.push('', ...models(shown))
  if (mediated.length > 0) lines.push('', ...mediatedLines(mediated))
  if (unseen.length > 0)
    lines.push(
      '',
      wrap(
        `Not all could be looked at: ${unseen.map(({ path, code }) => `${path} (${code})`).join(', ')}`,
        0,
      ),
    )
  return `${lines.join('\n')}\n`
}

const several = (count: number, what: string) => `${count} ${what}${count === 1 ? '' : 's'}`

const countOf = (groups: Inventory['groups'], verdict: InventoryDevice['verdict']) =>
  groups.filter((group) => group.verdict === verdict).length

function sentenceOf({ kernel, architecture, hypervisor, iommu, backend }: Inventory['host']): string {
  const kinds = iommu.kinds.length > 0 ? iommu.kinds.join(', ') : 'IOMMU'
  const remapping = { true: 'remapped', false: 'not remapped' }[String(iommu.interruptRemapping)]
  return [
    `Linux ${kernel || 'of a version that is not known'}`,
    architecture ?? 'a processor that is not known',
    ...(hypervisor === null ? [] : [`a guest of ${hypervisor}`]),
    iommu.present === null ? 'whether it has an IOMMU is not known' : iommu.present ? kinds : 'no IOMMU',
    ...(iommu.present && remapping ? [`interrupts ${remapping}`] : []),
    `VFIO maps by ${backend}`,
  ].join(', ')
}

const HEAD = ['COUNT', 'READY', 'FREE', 'USED', 'BLOCKED', 'NUMA', 'CLASS', 'IDS', 'DEVICE'] as const

/** A line for each kind of device, since a fleet has many of one. */
function models(devices: readonly InventoryDevice[]): string[] {
  const kinds = new Map<string, InventoryDevice[]>()
  for (const device of devices) {
    const key = `${device.class} ${device.ids} ${device.subsystemIds}`
    kinds.set(key, [...(kinds.get(key) ?? []), device])
  }
  const rows = [...kinds.values()].map((same) => {
    const [first] = same as [InventoryDevice, ...InventoryDevice[]]
    const count = (fits: (device: InventoryDevice) => boolean) => String(same.filter(fits).length)
    // What could not be seen to be free counts as used.
    const isUsed = (device: InventoryDevice) => device.verdict === 'bindable' && !isFree(device)
    const nodes = [...new Set(same.flatMap(({ numaNode }) => numaNode ?? []))].sort((a, b) => a - b)
    return [
      String(same.length),
      count(({ verdict }) => verdict === 'ready'),
      count((device) => device.verdict === 'bindable' && !isUsed(device)),
      count(isUsed),
      count(({ verdict }) => verdict === 'blocked'),
      nodes.join(',') || '-',
      classWord(first.class),
      first.ids,
      shortName(first),
    ]
  })
  // The last column takes what is left of the line.
  const whole = [HEAD, ...rows]
  const front = table(
    whole.map((row) => row.slice(0, -1)),
    [true, true, true, true, true],
  )
  const ahead = Math.max(...front.map((line) => line.length))
  const lines = front.map((line, row) => cut(`${line.padEnd(ahead)} ${whole[row]?.at(-1) ?? ''}`, width()))
  return lines.map((line, row) => (row === 0 ? colour.strong(line) : line))
}
