import { VfioError } from '../errors.js'
import { isKernelSince } from '../sysfs/kernel.js'
import type { Snapshot } from '../sysfs/snapshot.js'

/** A parameter that a kernel module of VFIO is to have. */
export interface ModuleOption {
  /** With `_`. */
  readonly module: string
  readonly name: string
  readonly value: string
}

interface Known {
  readonly module: string
  /** Since which kernel there is it; without, since VFIO. */
  readonly since?: readonly [major: number, minor: number]
  readonly isNumber?: boolean
  /** The module that has it where the kernel lacks the other. */
  readonly orElse?: 'iommufd'
  /** The end of a sentence: what it costs. */
  readonly risk: string
}

/** `drivers/vfio/vfio_main.c`, `vfio_iommu_type1.c`, `pci/vfio_pci.c`: what each is for and since when. */
const KNOWN: Readonly<Record<string, Known>> = {
  disable_idle_d3: {
    module: 'vfio_pci',
    risk: 'devices that nobody has open stay in D0, which takes power and may keep the host from deep sleep',
  },
  disable_vga: {
    module: 'vfio_pci',
    risk: 'no guest gets the legacy VGA ports and memory of a device, which old video BIOSes need',
  },
  nointxmask: {
    module: 'vfio_pci',
    risk: 'a device whose INTx line is shared with another one cannot have that interrupt any more',
  },
  disable_denylist: {
    module: 'vfio_pci',
    since: [5, 9],
    risk: 'user space can hang the host with the devices that the kernel keeps from it',
  },
  enable_sriov: {
    module: 'vfio_pci',
    since: [5, 7],
    risk: 'who has a physical function open can read and change what its virtual functions do, for whomever',
  },
  allow_unsafe_interrupts: {
    module: 'vfio_iommu_type1',
    orElse: 'iommufd',
    risk: 'a device may forge interrupts of the host and of other guests, so whoever drives it is trusted like root',
  },
  disable_hugepages: {
    module: 'vfio_iommu_type1',
    risk: 'mappings take more memory of the IOMMU and more time',
  },
  dma_entry_limit: {
    module: 'vfio_iommu_type1',
    isNumber: true,
    risk: 'each mapping takes memory of the kernel, which no other limit counts',
  },
  enable_unsafe_noiommu_mode: {
    module: 'vfio',
    risk: 'a device without an IOMMU can read and write all memory of the host, so whoever drives it is trusted like root; the kernel is tainted',
  },
}

/** Not known is not absent: of a module that is not in memory, or shows none, nothing is known. */
const parametersOf = ({ host }: Snapshot, module: string) => {
  const parameters = host.vfioModules[module]?.parameters ?? []
  return parameters.length > 0 ? parameters : null
}

/**
 * Options as they are typed: `NAME=VALUE`, or `NAME` alone for `NAME=1`. Each belongs to the module that has it.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` for what no module of VFIO has, as far as that can be seen, and for `ids`
 */
export function moduleOptions(
  seen: Snapshot,
  texts: readonly string[],
): { options: ModuleOption[]; warnings: string[] } {
  const warnings: string[] = []
  const options = new Map<string, ModuleOption>()
  for (const text of texts) {
    const [, name, value = '1'] = /^(\w+)(?:=(\w+))?$/.exec(text) ?? []
    if (name === undefined)
      throw refuse(`${JSON.stringify(text.slice(0, 60))} is no option: expected NAME=VALUE`)
    if (name === 'ids') throw refuse('ids are not given as an option: name the devices, with --by ids')
    const known = Object.hasOwn(KNOWN, name) ? KNOWN[name] : undefined
    const module = known ? moduleOf(seen, known) : moduleWith(seen, name)
    checkValue(name, value, known)
    checkThere(seen, name, module, known)
    if (known) warnings.push(`${name}=${value}: ${known.risk}`)
    if (parametersOf(seen, module) === null)
      warnings.push(
        `whether this kernel's ${module} has the parameter ${name} is not known: it is not loaded`,
      )
    options.set(name, { module, name, value })
  }
  return { options: [...options.values()], warnings }
}

const refuse = (message: string) => new VfioError('ERR_VFIO_BAD_ARGUMENT', message)

/** A kernel without containers has what they would have in iommufd (`drivers/iommu/iommufd/device.c`). */
function moduleOf({ host }: Snapshot, { module, orElse }: Known): string {
  const isThere = (state: string | undefined) => state !== 'missing' && state !== 'unknown'
  if (orElse === undefined || host.modules.vfio_iommu_type1 !== 'missing') return module
  return isThere(host.modules[orElse]) ? orElse : module
}

/** Another kernel may have parameters that nobody has heard of here. */
function moduleWith(seen: Snapshot, name: string): string {
  const found = Object.keys(seen.host.vfioModules).find((module) =>
    parametersOf(seen, module)?.includes(name),
  )
  if (found !== undefined) return found
  throw refuse(
    `no module of VFIO is known to have the parameter ${name}: there are ${Object.keys(KNOWN).join(', ')}`,
  )
}

function checkValue(name: string, value: string, known: Known | undefined): void {
  if (!known) return
  if (known.isNumber ? /^\d{1,10}$/.test(value) : /^[01ynYN]$/.test(value)) return
  throw refuse(`${name} takes ${known.isNumber ? 'a number' : '0 or 1'}, not ${value}`)
}

function checkThere(seen: Snapshot, name: string, module: string, known: Known | undefined): void {
  const there = parametersOf(seen, module)
  const isOlder = known?.since && !isKernelSince(seen.host.kernel, ...known.since)
  if (there ? there.includes(name) : !isOlder) return
  throw refuse(
    `${module} of this kernel has no parameter ${name}${there ? `: it has ${there.join(', ')}` : ''}`,
  )
}

/** The facts that options change, where they are set. */
const LIFTED = {
  allow_unsafe_interrupts: { allowUnsafeInterrupts: true },
  disable_denylist: { denylistDisabled: true },
  enable_unsafe_noiommu_mode: { noIommuMode: true },
} as const

/** The host as it is with these options: the same look where they lift nothing, so that nothing is judged twice. */
export function withOptions(seen: Snapshot, options: readonly ModuleOption[]): Snapshot {
  const on = options.filter(({ value }) => /^[1yY]$/.test(value)).map(({ name }) => name)
  const lifted = on.flatMap((name) => (name in LIFTED ? [LIFTED[name as keyof typeof LIFTED]] : []))
  return lifted.length === 0 ? seen : seen.with({ host: Object.assign({ ...seen.host }, ...lifted) })
}
