import {
  type CreatedMdev,
  createMdev,
  mdevTypes,
  type RemovedMdev,
  removeMdev,
  surveyMediated,
} from '../index.js'
import type { ListedMdevs } from './answers.js'
import { type Common, type Declare, deadlineOf, journal, json, look, run, sysfs, timeout } from './options.js'
import { answer, colour, table, wrap } from './output.js'
import { mediatedLines } from './overview.js'
import { stoppable } from './signals.js'
import { inOneLine } from './words.js'

interface ChangeMdevOptions {
  readonly uuid?: string
  readonly timeout?: number
  readonly journal?: string
  readonly json?: boolean
}

/** `vfio mdev`: mediated devices, which drivers make of what they drive. */
export const mdev: Declare = (vfio) => {
  const group = vfio
    .command('mdev')
    .description('mediated devices, which drivers make: what there is and can be, make one, remove one')
    .helpCommand(false)
  group
    .command('list')
    .description('the types that devices offer, with free instances, and the mediated devices that there are')
    .addOption(json())
    .addOption(sysfs())
    .action(
      run((options: Common) => {
        const seen = look(options)
        const found = { types: mdevTypes(seen), devices: surveyMediated(seen) }
        answer(found, options.json, renderList)
        return 0
      }),
    )
  group
    .command('create')
    .description('make a mediated device, and print its UUID')
    .argument('<type>', 'a type that the parent offers, like i915-GVTg_V5_4')
    .argument('<parent>', 'the device that makes it: PCI address, or another name in /sys/class/mdev_bus')
    .option('--uuid <uuid>', 'its UUID (default: a random one)')
    .addOption(timeout())
    .addOption(journal())
    .addOption(json())
    .action(run(create))
  group
    .command('remove')
    .description('end a mediated device for good; one that is open is refused')
    .argument('<uuid>', 'which one')
    .addOption(timeout())
    .addOption(journal())
    .addOption(json())
    .action(run(remove))
}

const HEAD = ['PARENT', 'TYPE', 'FREE', 'DRIVEN AS', 'NAME'] as const

function renderList({ types, devices }: ListedMdevs): string {
  const lines: string[] = []
  if (types.length > 0) {
    const rows = types.map(({ parent, id, available, deviceApi, name }, at) => [
      types[at - 1]?.parent === parent ? '' : parent,
      id,
      available === null ? '?' : String(available),
      deviceApi ?? '?',
      name ?? '-',
    ])
    const [head = '', ...body] = table([HEAD, ...rows], [false, false, true])
    lines.push(colour.strong(head))
    for (const [at, line] of body.entries()) {
      lines.push(line)
      const { description } = types[at] ?? {}
      if (description) lines.push(colour.faint(wrap(inOneLine(description), 4)))
    }
  } else {
    lines.push(
      wrap(
        'Nothing here makes mediated devices: a driver has to offer them (i915 with enable_gvt=1, the vGPU manager of NVIDIA, vfio_ap, vfio_ccw).',
        0,
      ),
    )
  }
  if (devices.length > 0) lines.push('', ...mediatedLines(devices))
  return `${lines.join('\n')}\n`
}

async function create(type: string, parent: string, options: ChangeMdevOptions): Promise<number> {
  const seen = look({})
  const { uuid, journal } = options
  return await stoppable('finishing what was begun', async () => {
    const made = await createMdev(seen, type, parent, { uuid, journal, deadline: deadlineOf(options) })
    answer(made, options.json, renderCreated)
    return 0
  })
}

function renderCreated({ uuid, type, parent, group, driver }: CreatedMdev): string {
  const how =
    driver === null
      ? `without a driver: "vfio bind ${uuid}" gives it to VFIO`
      : `on ${driver}${group === null ? '' : `, group ${group}`}`
  return `${uuid} is a ${type} of ${parent}, ${how}\n`
}

async function remove(uuid: string, options: ChangeMdevOptions): Promise<number> {
  const seen = look({}, { around: [uuid] })
  const { journal } = options
  return await stoppable('finishing what was begun', async () => {
    const removed = await removeMdev(seen, uuid, { journal, deadline: deadlineOf(options) })
    answer(removed, options.json, renderRemoved)
    return 0
  })
}

const renderRemoved = ({ uuid, type, parent }: RemovedMdev) =>
  `${uuid} was removed${type === null ? '' : `: there is room for a ${type} again`}${parent === null ? '' : ` on ${parent}`}\n`
