import type { ParameterAdvice } from '../assess/kernel-parameters.js'

/** What keeps the kernel command line of a host. `unknown`: nothing that is known here. */
export type BootLoaderName =
  | 'rpm-ostree'
  | 'proxmox-boot-tool'
  | 'grubby'
  | 'grub'
  | 'zipl'
  | 'sdbootutil'
  | 'kernelstub'
  | 'kernel-install'
  | 'systemd-boot'
  | 'uki'
  | 'limine'
  | 'limine-entries'
  | 'extlinux'
  | 'update-extlinux'
  | 'u-boot-menu'
  | 'raspberry-pi'
  | 'refind'
  | 'unknown'

/** How a host's kernel command line is kept: paths are from the root of the tree that was looked at. */
export interface BootLoader {
  readonly name: BootLoaderName
  /** The file that holds it; `null` where a command keeps it. */
  readonly path: string | null
  /** The command that makes a change of that file take effect; `null` where nothing has to be run. */
  readonly command: string | null
}

/** A change of the kernel command line that is missing. Nothing here applies it. */
export interface CommandLineAdvice {
  readonly loader: BootLoaderName
  readonly add: readonly ParameterAdvice[]
  readonly remove: readonly ParameterAdvice[]
  readonly path: string | null
  /** One sentence: what to do where. */
  readonly how: string
  readonly command: string | null
}

/** Where in its file each loader has the parameters. */
const PLACE: Readonly<Partial<Record<BootLoaderName, string>>> = {
  'proxmox-boot-tool': 'the one line of',
  grub: 'the value of GRUB_CMDLINE_LINUX in',
  zipl: 'the parameters= line of each section in',
  sdbootutil: 'the one line of',
  'kernel-install': 'the one line of',
  'systemd-boot': 'the options line of each entry,',
  uki: 'the one line of',
  limine: 'the value of KERNEL_CMDLINE[default] in',
  'limine-entries': 'the cmdline: line of each entry in',
  extlinux: 'the append line of each label in',
  'update-extlinux': 'the value of default_kernel_opts in',
  'u-boot-menu': 'the value of U_BOOT_PARAMETERS in',
  'raspberry-pi': 'the one line of',
  refind: 'the second quotes of each line in',
}

/** Commands that take the parameters themselves. */
function commandOf(name: BootLoaderName, add: readonly string[], remove: readonly string[]): string | null {
  const words = (option: string, list: readonly string[]) => list.map((item) => `${option}${item}`)
  switch (name) {
    case 'rpm-ostree':
      return [
        'rpm-ostree kargs',
        ...words('--append-if-missing=', add),
        ...words('--delete-if-present=', remove),
      ].join(' ')
    case 'grubby':
      return [
        'grubby --update-kernel=ALL',
        ...(add.length > 0 ? [`--args="${add.join(' ')}"`] : []),
        ...(remove.length > 0 ? [`--remove-args="${remove.join(' ')}"`] : []),
      ].join(' ')
    case 'kernelstub':
      return [
        ...(add.length > 0 ? [`kernelstub --add-options "${add.join(' ')}"`] : []),
        ...(remove.length > 0 ? [`kernelstub --delete-options "${remove.join(' ')}"`] : []),
      ].join(' && ')
    default:
      return null
  }
}

/** What to do about the command line, for one way to keep it; `null` where nothing is missing. */
export function adviseCommandLine(
  loader: BootLoader,
  add: readonly ParameterAdvice[],
  remove: readonly ParameterAdvice[],
): CommandLineAdvice | null {
  if (add.length + remove.length === 0) return null
  const names = (list: readonly ParameterAdvice[]) => list.map(({ parameter }) => parameter)
  const changes = [
    ...(add.length > 0 ? [`add ${names(add).join(' ')} to`] : []),
    ...(remove.length > 0 ? [`take ${names(remove).join(' ')} out of`] : []),
  ].join(', and ')
  const own = commandOf(loader.name, names(add), names(remove))
  const command =
    own === null ? loader.command : [own, ...(loader.command ? [loader.command] : [])].join(' && ')
  const place =
    loader.path === null
      ? 'the kernel command line, wherever the boot loader of this host keeps it'
      : `${PLACE[loader.name] ?? ''} ${loader.path}`.trim()
  const how =
    own === null ? `${changes} ${place}${command ? `, then run: ${command}` : ''}` : `run: ${command}`
  return { loader: loader.name, add, remove, path: loader.path, how, command }
}
