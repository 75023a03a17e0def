import type { ByHand, PersistFile } from './file.js'
import type { Initramfs } from './initramfs.js'

/** All that a boot needs to bind devices. */
export interface BootContent {
  /** Files as they would be written elsewhere. */
  readonly files: readonly PersistFile[]
  /** Kernel modules that the initramfs has to load. */
  readonly modules: readonly string[]
  /** Parameters of the kernel command line. */
  readonly parameters: readonly string[]
  /** Devices by the driver that they are to have. */
  readonly devices: readonly {
    readonly address: string
    readonly driver: string
    /** Vendor and device, as `lspci -n` writes them. */
    readonly ids: string
    readonly isDisplay: boolean
  }[]
}

/** A system whose /etc is made anew, at each boot or from a configuration: what is written there vanishes. */
interface MadeFrom {
  /** The end of a sentence: where /etc comes from. */
  readonly source: string
  /** Where the kernel command line comes from. */
  readonly place: string
  /** What the configuration gets. */
  configuration(content: BootContent): Omit<ByHand, 'why'>[]
  /** The command that makes the system anew. */
  readonly rebuild: string | null
}

const MODPROBE_DIRECTORY = '/etc/modprobe.d/'
const text = (lines: readonly string[]) => `${lines.join('\n')}\n`
const indent = (content: string, by: number) => content.replace(/^(?=.)/gm, ' '.repeat(by))
const inDirectory = (files: readonly PersistFile[], isModprobe: boolean) =>
  files
    .filter(({ path }) => path.startsWith(MODPROBE_DIRECTORY) === isModprobe)
    .map(({ content }) => content)
    .join('')
const quoted = (words: readonly string[]) => words.map((word) => `"${word}"`).join(' ')

/** In Nix's indented strings `''` and `${` have a meaning; no line of ours has either. */
function nixos({ files, modules, parameters }: BootContent): Omit<ByHand, 'why'>[] {
  const string = (name: string, content: string) =>
    content === '' ? [] : [`${name} = ''`, `${indent(content, 2)}'';`]
  const lines = [
    `boot.initrd.kernelModules = [ ${quoted(modules)} ];`,
    ...(parameters.length > 0 ? [`boot.kernelParams = [ ${quoted(parameters)} ];`] : []),
    ...string('boot.extraModprobeConfig', inDirectory(files, true)),
    ...string('services.udev.extraRules', inDirectory(files, false)),
  ]
  return [{ path: '/etc/nixos/configuration.nix', content: text(lines) }]
}

function guix({ files, modules, parameters }: BootContent): Omit<ByHand, 'why'>[] {
  const lines = [
    `(initrd-modules (append (list ${quoted(modules)}) %base-initrd-modules))`,
    ...(parameters.length > 0
      ? [`(kernel-arguments (append (list ${quoted(parameters)}) %default-kernel-arguments))`]
      : []),
  ]
  const rest = files.map(({ path, content }) => ({ path: `${path}, by etc-service-type`, content }))
  return [{ path: '/etc/config.scm', content: text(lines) }, ...rest]
}

/** Talos has no shell, so it binds devices itself (`PCIDriverRebindConfig`, since 1.10). */
function talos({ modules, parameters, devices }: BootContent): Omit<ByHand, 'why'>[] {
  const machine = [
    'machine:',
    ...(parameters.length > 0
      ? ['  install:', '    extraKernelArgs:', ...parameters.map((parameter) => `      - ${parameter}`)]
      : []),
    '  kernel:',
    '    modules:',
    ...modules.map((module) => `      - name: ${module}`),
  ]
  const rebinds = devices.flatMap(({ address, driver }) => [
    '---',
    'apiVersion: v1alpha1',
    'kind: PCIDriverRebindConfig',
    `name: ${address}`,
    `targetDriver: ${driver}`,
  ])
  return [{ path: 'machine configuration', content: text([...machine, ...rebinds]) }]
}

/** The files, and the modules as one more, in Butane's words; `each` is said of every file. */
const storage = ({ files, modules }: BootContent, each: readonly string[]): string[] => [
  'storage:',
  '  files:',
  ...[...files, { path: '/etc/modules-load.d/vfio-persist.conf', content: text(modules) }].flatMap(
    ({ path, content }) => [
      `    - path: ${path}`,
      ...each,
      '      contents:',
      '        inline: |',
      indent(content, 10).trimEnd(),
    ],
  ),
]

/** Kernel parameters below what stands in front of their list; nothing where there are none. */
const listed = (head: readonly string[], parameters: readonly string[]): string[] =>
  parameters.length > 0 ? [...head, ...parameters.map((parameter) => `    - ${parameter}`)] : []

function butane(content: BootContent): Omit<ByHand, 'why'>[] {
  const lines = [
    ...storage(content, []),
    ...listed(['kernel_arguments:', '  should_exist:'], content.parameters),
  ]
  return [{ path: 'Butane configuration', content: text(lines) }]
}

/** Butane's variant for OpenShift makes a MachineConfig of it, in which the parameters have a place of their own. */
function machineConfig(content: BootContent): Omit<ByHand, 'why'>[] {
  const lines = [
    'variant: openshift',
    'version: 4.14.0',
    'metadata:',
    '  name: 100-worker-vfio-persist',
    '  labels:',
    '    machineconfiguration.openshift.io/role: worker',
    ...listed(['openshift:', '  kernel_arguments:'], content.parameters),
    ...storage(content, ['      mode: 0644', '      overwrite: true']),
  ]
  return [{ path: '100-worker-vfio-persist.bu', content: text(lines) }]
}

/** TrueNAS keeps displays from its drivers by a setting, and binds anything else when the VM that has it starts. */
function trueNas({ devices, parameters }: BootContent): Omit<ByHand, 'why'>[] {
  const displays = devices.filter(({ isDisplay }) => isDisplay).map(({ address }) => address)
  const others = devices.filter(({ isDisplay }) => !isDisplay).map(({ address }) => address)
  const call = (method: string, value: unknown) => `midclt call ${method} '${JSON.stringify(value)}'`
  const lines = [
    ...(displays.length > 0 ? [call('system.advanced.update_gpu_pci_ids', displays)] : []),
    ...(parameters.length > 0
      ? [call('system.advanced.update', { kernel_extra_options: parameters.join(' ') })]
      : []),
  ]
  // A display takes its other functions along.
  const left =
    others.length > 0 && displays.length === 0
      ? [`# ${others.join(', ')}: nothing to set, it is bound when the virtual machine that has it starts`]
      : []
  return [
    { path: 'Advanced Settings, Isolated GPU Devices, or in its shell', content: text([...lines, ...left]) },
  ]
}

/** Its boot reads what it binds from the stick (`BIND=`), and takes options of modules along from there. */
function unraid({ devices, files }: BootContent): Omit<ByHand, 'why'>[] {
  const bind = devices.map(({ address, ids }) => `${address}|${ids}`).join(' ')
  const options = inDirectory(files, true)
    .split('\n')
    .filter((line) => line.startsWith('options '))
  return [
    { path: '/boot/config/vfio-pci.cfg', content: text([`BIND=${bind}`]) },
    ...(options.length > 0
      ? [{ path: '/boot/config/modprobe.d/vfio-persist.conf', content: text(options) }]
      : []),
  ]
}

const asFiles = ({ files }: BootContent) => files.map(({ path, content }) => ({ path, content }))

export const MADE_FROM: Readonly<Partial<Record<Initramfs, MadeFrom>>> = {
  nixos: {
    source: 'NixOS makes /etc from its configuration',
    place: '/etc/nixos/configuration.nix',
    configuration: nixos,
    rebuild: 'nixos-rebuild boot',
  },
  guix: {
    source: 'Guix makes /etc from its configuration',
    place: '/etc/config.scm',
    configuration: guix,
    rebuild: 'guix system reconfigure /etc/config.scm',
  },
  talos: {
    source: 'Talos makes /etc from its machine configuration',
    place: 'the machine configuration',
    configuration: talos,
    rebuild: 'talosctl apply-config',
  },
  ignition: {
    source: 'this system is set up by Ignition, and its initramfs belongs to its image',
    place: 'the Butane configuration',
    configuration: butane,
    rebuild: null,
  },
  'machine-config': {
    source: 'the nodes of OpenShift are made from MachineConfigs',
    place: 'the MachineConfig (kernelArguments)',
    configuration: machineConfig,
    rebuild: 'butane 100-worker-vfio-persist.bu | oc apply -f -',
  },
  truenas: {
    source: 'TrueNAS makes /etc and its initramfs from its settings',
    place: 'the setting kernel_extra_options (midclt call system.advanced.update)',
    configuration: trueNas,
    rebuild: null,
  },
  unraid: {
    source: 'Unraid unpacks /etc anew at each boot',
    place: 'the append line of /boot/syslinux/syslinux.cfg',
    configuration: unraid,
    rebuild: null,
  },
  image: {
    source: 'this system is an image, and its initramfs belongs to it',
    place: 'what the image is made from',
    configuration: asFiles,
    rebuild: null,
  },
  volatile: {
    source: '/etc is read-only here, or in memory, and made anew at each boot',
    place: 'the kernel command line of what is booted',
    configuration: asFiles,
    rebuild: null,
  },
}
