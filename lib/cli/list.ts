import { Option } from 'commander'
import {
  choose,
  type Snapshot,
  type Survey,
  survey,
  surveyDevice,
  surveyGroup,
  surveyMediated,
  VfioError,
} from '../index.js'
import { NOT_READY } from './exit.js'
import { type Common, type Declare, json, look, lookAgain, run, sysfs } from './options.js'
import { answer, Making, printJson } from './output.js'
import { render } from './overview.js'
import { follow } from './watch.js'

interface ListOptions extends Common {
  readonly all?: boolean
  readonly class?: string
  readonly driver?: string
  readonly free?: boolean
  readonly group?: string
  readonly watch?: boolean
}

/** `vfio list`: what can be given away, what has to come along, what uses it and how it can be reset. */
export const list: Declare = (vfio) => {
  vfio
    .command('list')
    .description('all devices: class, driver, verdict, what uses them, how they are reset')
    .argument('[word...]', 'only those with these words in address, ids, class, driver or name')
    .option('--class <class>', 'only those of a class, like vga, nvme, ethernet or 0300')
    .option('--driver <name>', 'only those of a driver; none: those without one')
    .option('--free', 'only those that can be given away and that nothing uses')
    .addOption(new Option('--group <number>', 'only those of an IOMMU group, bridges included'))
    .option('--all', 'bridges and parts of the machine too')
    .addOption(
      new Option('--watch', 'go on, and tell what comes, goes, is bound, opened or closed').conflicts(
        'sysfs',
      ),
    )
    .addOption(json())
    .addOption(sysfs())
    .action(run(act))
}

function act(words: readonly string[], options: ListOptions): number | Promise<number> {
  const group = options.group === undefined ? undefined : groupNumber(options.group)
  const { class: ofClass, driver, free } = options
  const fits = (all: Survey) => choose(all, { words, class: ofClass, driver, free, group })
  const isFiltered = words.length > 0 || [ofClass, driver, free, group].some((one) => one !== undefined)
  const style = { showsAll: options.all === true || group !== undefined, isFiltered }
  if (options.watch)
    return follow({
      look: (isFirst) => survey(isFirst ? look(options, { isWatch: true }) : lookAgain()),
      fits,
      style,
      isJson: options.json === true,
    })
  // A program that wants to know of uses asks for those that are free, or for the device.
  const brief = options.json === true && !options.free
  const seen = look(options, { brief })
  if (options.json && !isFiltered) return printAll(seen)
  const chosen = fits(survey(seen))
  answer(chosen, options.json, (chosen) => render(chosen, style))
  return isFiltered && chosen.devices.length + (chosen.mediated?.length ?? 0) === 0 ? NOT_READY : 0
}

/** The same as a survey of everything, judged while it is printed: of a large host most of the time would go into keeping it. */
function printAll(seen: Snapshot): number {
  const inhabited = new Set<number | null>()
  for (const { group } of [...seen.devices, ...seen.mediated]) inhabited.add(group)
  const groups = seen.groups.filter(({ group }) => inhabited.has(group))
  const mediated = surveyMediated(seen)
  printJson({
    host: seen.host,
    groups: new Making(groups, (group) => surveyGroup(seen, group)),
    devices: new Making(seen.devices, (device) => surveyDevice(seen, device)),
    ...(mediated.length > 0 && { mediated }),
  })
  return 0
}

function groupNumber(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw new VfioError('ERR_VFIO_BAD_ARGUMENT', `--group takes the number of a group, not "${text}"`)
}
