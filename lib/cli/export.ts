import { Argument, Option } from 'commander'
import {
  assess,
  type CloudHypervisorExport,
  exportCloudHypervisor,
  exportKubevirt,
  exportLibvirt,
  exportQemu,
  type KubevirtExport,
  type LibvirtExport,
  parseSize,
  parseZpci,
  type QemuExport,
  VfioError,
} from '../index.js'
import { NOT_READY } from './exit.js'
import { type Common, type Declare, json, look, memory, run, sysfs } from './options.js'
import { isTerminal, note, print, toJson } from './output.js'
import { next } from './progress.js'

interface ExportOptions extends Common {
  readonly iommufd?: boolean
  readonly managed?: string
  readonly guestAddress?: string
  readonly zpci?: string
  readonly machine?: string
  readonly memory?: string
  readonly resource?: string
}

const FORMATS = ['qemu', 'libvirt', 'cloud-hypervisor', 'kubevirt'] as const
type Format = (typeof FORMATS)[number]

type Choosing = Exclude<keyof ExportOptions, keyof Common>

/** To whom each option means something. libvirt raises the limit on memory of what it starts by itself. */
const MEANT_FOR: Readonly<Record<Choosing, readonly Format[]>> = {
  iommufd: ['qemu', 'libvirt', 'cloud-hypervisor'],
  managed: ['libvirt'],
  guestAddress: ['qemu', 'libvirt', 'cloud-hypervisor'],
  zpci: ['qemu', 'libvirt'],
  machine: ['qemu', 'libvirt'],
  memory: ['qemu', 'cloud-hypervisor'],
  resource: ['kubevirt'],
}

const startGuest = (addresses: readonly string[]) =>
  `start the guest; afterwards vfio release ${addresses.join(' ')}`
const NEXT: Readonly<Record<Format, (addresses: readonly string[]) => string>> = {
  qemu: startGuest,
  libvirt: startGuest,
  'cloud-hypervisor': startGuest,
  kubevirt: () =>
    'put that into spec.configuration of the resource KubeVirt, and let the device plugin offer them',
}

/** What hosts of each kind start guests as. */
const MACHINES: Readonly<Record<string, string>> = { arm64: 'virt', s390x: 's390-ccw-virtio' }

/** `vfio export`: devices as another program's arguments or XML. */
export const exportTo: Declare = (vfio) => {
  vfio
    .command('export')
    .description(
      'devices as the arguments of a hypervisor, the XML of libvirt, or the configuration of KubeVirt',
    )
    .addArgument(new Argument('<format>', 'whom it is for').choices(FORMATS))
    .argument('<address...>', 'PCI addresses, or UUIDs of mediated devices')
    .option('--iommufd', 'open the devices through /dev/iommu')
    .addOption(
      new Option('--managed <yes|no>', 'libvirt: it binds the devices itself').choices(['yes', 'no']),
    )
    .option('--guest-address <address>', 'where the first device goes in the guest, like 05:00.0')
    .option('--zpci <uid[,fid]>', 's390: ids of the first function')
    .addOption(memory())
    .option('--machine <type>', 'machine type of the guest: q35, pc, virt, s390-ccw-virtio')
    .option('--resource <name>', 'kubevirt: what the device plugin offers them as, like example.com/gpu')
    .addOption(json())
    .addOption(sysfs())
    .action(run(act))
}

function act(format: Format, addresses: readonly string[], options: ExportOptions): number {
  const seen = look(options, { around: addresses })
  const { iommufd, guestAddress } = options
  for (const [name, formats] of Object.entries(MEANT_FOR)) {
    if (options[name as Choosing] !== undefined && !formats.includes(format)) refuse(name, format)
  }
  const zpci = options.zpci === undefined ? undefined : parseZpci(options.zpci)
  const machine = options.machine ?? (zpci ? undefined : MACHINES[process.arch])
  const managed = options.managed === undefined ? undefined : options.managed === 'yes'
  const memory = options.memory === undefined ? undefined : parseSize(options.memory)
  const exported = {
    qemu: () => exportQemu(seen, addresses, { iommufd, guestAddress, zpci, machine, memory }),
    libvirt: () => exportLibvirt(seen, addresses, { iommufd, guestAddress, zpci, machine, managed }),
    'cloud-hypervisor': () => exportCloudHypervisor(seen, addresses, { iommufd, guestAddress, memory }),
    kubevirt: () => exportKubevirt(seen, addresses, { resource: options.resource }),
  }[format]()
  print(options.json ? toJson(exported) : textOf(exported))
  // Apart from the text, which is pasted or piped.
  if (!options.json) for (const line of exported.notes) note(`vfio: ${line}`)
  if (exported.blockers.length > 0) return NOT_READY
  const names = exported.devices.map(({ address }) => address)
  // Until then the notes say what is to be done.
  if (names.every((name) => assess(seen, name).verdict === 'ready'))
    next(NEXT[format](addresses), options.json)
  return 0
}

/** Arguments are printed in lines for a person, who pastes them, and else in one: `$(vfio export …)` splits it into them. */
export function textOf(
  exported: Pick<QemuExport | LibvirtExport | CloudHypervisorExport | KubevirtExport, 'text'> & {
    arguments?: readonly string[]
  },
  forPerson = isTerminal(),
): string {
  const words = exported.arguments
  if (words === undefined || forPerson) return exported.text
  const split = words.find((word) => !/^[^\s*?[\]\\'"]+$/.test(word))
  if (split === undefined) return `${words.join(' ')}\n`
  throw new VfioError(
    'ERR_VFIO_BAD_ARGUMENT',
    `the argument ${JSON.stringify(split)} would be split or changed by a shell that takes it from $(…): take "arguments" of --json`,
  )
}

function refuse(name: string, format: string): never {
  const option = `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
  throw new VfioError('ERR_VFIO_BAD_ARGUMENT', `${option} means nothing to ${format}: leave it out`)
}
