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
  readonly devices: readonly { readonly address: string; readonly driver: string }[]
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

function butane({ files, modules, parameters }: BootContent): Omit<ByHand, 'why'>[] {
  const all = [
    ...files,
    { path: '/etc/modules-load.d/vfio-persist.conf', content: text(modules), kind: 'file' as const },
  ]
  const lines = [
    'storage:',
    '  files:',
    ...all.flatMap(({ path, content }) => [
      `    - path: ${path}`,
      '      contents:',
      '        inline: |',
      indent(content, 10).trimEnd(),
    ]),
    ...(parameters.length > 0
      ? ['kernel_arguments:', '  should_exist:', ...parameters.map((parameter) => `    - ${parameter}`)]
      : []),
  ]
  return [{ path: 'Butane configuration', content: text(lines) }]
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
