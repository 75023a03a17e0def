import { Option } from 'commander'
import { type CdiConsumer, type CdiReport, exportCdi, removeCdi, VfioError, writeCdi } from '../index.js'
import { type Common, type Declare, json, look, run, sysfs } from './options.js'
import { answer, note, print, toJson } from './output.js'
import { next } from './progress.js'

interface CdiCommandOptions extends Common {
  readonly kind?: string
  readonly consumer?: CdiConsumer
  readonly iommufd?: boolean
  readonly write?: boolean
  readonly remove?: boolean
  readonly root?: string
}

/** `vfio cdi`: prints, writes or takes away what container runtimes know devices by. */
export const cdi: Declare = (vfio) => {
  vfio
    .command('cdi')
    .description(
      'devices for containers, by the Container Device Interface: print it, write it, take it away',
    )
    .argument('[address...]', 'PCI addresses, or UUIDs of mediated devices: all that the kind is to have')
    .option('--kind <vendor/class>', 'what containers ask for (default: vfio/pci)')
    .addOption(
      new Option(
        '--consumer <who>',
        'plain: the container opens them (default); kata: its VM has them',
      ).choices(['plain', 'kata']),
    )
    .option('--iommufd', 'let them be opened through /dev/iommu')
    .option('--write', 'write it to /var/run/cdi, where container runtimes look, until the next boot')
    .option('--remove', 'take away what was written, or these devices of it')
    .option('--root <dir>', 'another file tree in place of /')
    .addOption(json())
    .addOption(sysfs())
    .action(run(act))
}

async function act(addresses: readonly string[], options: CdiCommandOptions): Promise<number> {
  const { root, kind, consumer, write = false, remove = false, json = false } = options
  if (options.sysfs !== undefined && (write || remove) && root === undefined) {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      `--sysfs is another host: ${write ? '--write' : '--remove'} needs its --root too`,
    )
  }
  if (remove) {
    if (write || consumer !== undefined || options.iommufd)
      throw new VfioError(
        'ERR_VFIO_BAD_ARGUMENT',
        '--remove takes away what there is: give it with --kind and addresses alone',
      )
    answer(await removeCdi({ root, kind, addresses }), json, renderReport)
    return 0
  }
  const seen = look(options, { around: addresses })
  const backend = options.iommufd ? 'iommufd' : undefined
  const exported = exportCdi(seen, addresses, { kind, consumer, backend })
  const report = write ? await writeCdi(exported, { root }) : null
  if (report) answer({ exported, report }, json, (done) => renderReport(done.report))
  // The text has line ends, and is made of checked words alone.
  else print(json ? toJson(exported) : exported.text)
  if (!json) for (const line of exported.notes) note(`vfio: ${line}`)
  const names = exported.devices.map(({ qualifiedName }) => `--device ${qualifiedName}`).join(' ')
  if (report && exported.consumer === 'plain') next(`podman run ${names} …`, json)
  return 0
}

function renderReport({ path, change, devices, dropped }: CdiReport): string {
  const lines = dropped.map((name) => `${name} is not there for containers any more`)
  if (change === 'removed') lines.unshift(`took away ${path}`)
  if (change === 'written') lines.unshift(`wrote ${path}: ${devices.join(' ')}`)
  if (change === 'none')
    lines.push(devices.length > 0 ? `${path} is written already: nothing was changed` : `there is no ${path}`)
  return `${lines.join('\n')}\n`
}
