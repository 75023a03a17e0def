/** What builds a host's initramfs. */
export type Initramfs = 'initramfs-tools' | 'dracut' | 'mkinitcpio' | 'none'

interface Tool {
  /** The program by which it is known to be there. */
  readonly program: string
  /** Where its list of modules goes. */
  readonly path: string
  /** initramfs-tools has one list for all; the others read every file of a directory. */
  readonly kind: 'file' | 'block'
  lines(modules: readonly string[], files: readonly string[]): string[]
  readonly rebuild: string
}

/** Each tool's way to have modules and files in the initramfs. */
export const INITRAMFS: Readonly<Record<Initramfs, Tool | null>> = {
  'initramfs-tools': {
    program: '/usr/sbin/mkinitramfs',
    path: '/etc/initramfs-tools/modules',
    kind: 'block',
    // It takes all of /etc/modprobe.d and the local udev rules along by itself.
    lines: (modules) => [...modules],
    rebuild: 'update-initramfs -u',
  },
  dracut: {
    program: '/usr/bin/dracut',
    path: '/etc/dracut.conf.d/vfio-persist.conf',
    kind: 'file',
    lines: (modules, files) => [
      `force_drivers+=" ${modules.join(' ')} "`,
      `install_items+=" ${files.join(' ')} "`,
    ],
    rebuild: 'dracut --regenerate-all --force',
  },
  mkinitcpio: {
    program: '/usr/bin/mkinitcpio',
    path: '/etc/mkinitcpio.conf.d/vfio-persist.conf',
    kind: 'file',
    lines: (modules, files) => [`MODULES+=(${modules.join(' ')})`, `FILES+=(${files.join(' ')})`],
    rebuild: 'mkinitcpio -P',
  },
  none: null,
}
