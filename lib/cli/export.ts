import {
  exportCloudHypervisor,
  exportLibvirt,
  exportQemu,
  parseSize,
  parseZpci,
  type Snapshot,
  VfioError,
} from '../index.js'
import { note, print, toJson } from './output.js'
import { NOT_READY } from './status.js'

export interface ExportOptions {
  readonly iommufd?: boolean
  readonly managed?: string
  readonly guestAddress?: string
  readonly zpci?: string
  readonly machine?: string
  readonly memory?: string
  readonly json?: boolean
}

export const EXPORT_FORMATS = ['qemu', 'libvirt', 'cloud-hypervisor'] as const
export type ExportFormat = (typeof EXPORT_FORMATS)[number]

/** What hosts of each kind start guests as. */
const MACHINES: Readonly<Record<string, string>> = { arm64: 'virt', s390x: 's390-ccw-virtio' }

/** `vfio export`: devices as another program's arguments or XML. */
export function exportTo(
  seen: Snapshot,
  format: ExportFormat,
  addresses: readonly string[],
  options: ExportOptions,
): number {
  const { iommufd, guestAddress } = options
  refuse(options.managed !== undefined && format !== 'libvirt', '--managed', format)
  refuse(options.zpci !== undefined && format === 'cloud-hypervisor', '--zpci', format)
  refuse(options.machine !== undefined && format === 'cloud-hypervisor', '--machine', format)
  // libvirt raises the limit of what it starts by itself.
  refuse(options.memory !== undefined && format === 'libvirt', '--memory', format)
  const zpci = options.zpci === undefined ? undefined : parseZpci(options.zpci)
  const machine = options.machine ?? (zpci ? undefined : MACHINES[process.arch])
  const managed = options.managed === undefined ? undefined : options.managed === 'yes'
  const memory = options.memory === undefined ? undefined : parseSize(options.memory)
  const exported = {
    qemu: () => exportQemu(seen, addresses, { iommufd, guestAddress, zpci, machine, memory }),
    libvirt: () => exportLibvirt(seen, addresses, { iommufd, guestAddress, zpci, machine, managed }),
    'cloud-hypervisor': () => exportCloudHypervisor(seen, addresses, { iommufd, guestAddress, memory }),
  }[format]()
  print(options.json ? toJson(exported) : exported.text)
  // Apart from the text, which is pasted or piped.
  if (!options.json) for (const line of exported.notes) note(`vfio: ${line}`)
  return exported.blockers.length > 0 ? NOT_READY : 0
}

function refuse(wrong: boolean, option: string, format: string): void {
  if (wrong)
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', `${option} means nothing to ${format}: leave it out`)
}
