import type { PersistFile } from './file.js'

/**
 * What builds a host's initramfs, or in place of that what the host is made from. Of one tool there are several where
 * distributions call it in ways of their own. `none`: nothing that is known here.
 */
export type Initramfs =
  | 'rpm-ostree'
  | 'transactional-update'
  | 'proxmox'
  | 'initramfs-tools'
  | 'sdbootutil'
  | 'dracut-rebuild'
  | 'reinstall-kernels'
  | 'dracut-uki'
  | 'dracut'
  | 'mkinitcpio'
  | 'mkinitcpio-single'
  | 'booster-images'
  | 'booster'
  | 'mkinitfs'
  | 'nixos'
  | 'guix'
  | 'talos'
  | 'ignition'
  | 'machine-config'
  | 'truenas'
  | 'unraid'
  | 'image'
  | 'volatile'
  | 'none'

/** What an initramfs gets. */
interface Content {
  /** Kernel modules that it loads, in this order. */
  readonly modules: readonly string[]
  /** Files of the host that it needs too. */
  readonly files: readonly string[]
}

interface Tool {
  /** The files of its configuration that are ours, or have lines of ours. */
  files(content: Content): PersistFile[]
  /** What has to go by hand into a file that is neither ours nor made to be added to. */
  byHand?(content: Content): { readonly path: string; readonly content: string }
  /** The command that builds it anew, for every kernel that may boot. */
  readonly rebuild: string
  /** What it cannot do, a sentence. */
  readonly limit?: string
}

const lines = (...all: string[]) => `${all.join('\n')}\n`
const file = (path: string, kind: PersistFile['kind'], ...all: string[]): PersistFile => ({
  path,
  kind,
  content: lines(...all),
})

/** It takes all of /etc/modprobe.d and the local udev rules along by itself. */
const initramfsTools = (rebuild: string): Tool => ({
  files: ({ modules }) => [file('/etc/initramfs-tools/modules', 'block', ...modules)],
  rebuild,
})

const dracut = (rebuild: string): Tool => ({
  files: ({ modules, files }) => [
    file(
      '/etc/dracut.conf.d/vfio-persist.conf',
      'file',
      `force_drivers+=" ${modules.join(' ')} "`,
      `install_items+=" ${files.join(' ')} "`,
    ),
  ],
  rebuild,
})

const mkinitcpio = (path: string, kind: PersistFile['kind']): Tool => ({
  files: ({ modules, files }) => [
    file(path, kind, `MODULES+=(${modules.join(' ')})`, `FILES+=(${files.join(' ')})`),
  ],
  rebuild: 'mkinitcpio -P',
})

/** Its list is a YAML key of its own, which may stand in the file only once. */
const booster = (rebuild: string): Tool => ({
  files: () => [],
  byHand: ({ modules }) => ({
    path: '/etc/booster.yaml',
    content: lines(`modules_force_load: ${modules.join(',')}`),
  }),
  rebuild,
  limit:
    'booster runs neither install lines nor udev rules inside the initramfs: devices by their address are bound only after it, so use --by ids where their driver is in the initramfs',
})

/**
 * Each tool's way to have modules and files in the initramfs. `-k all` and `--regenerate-all`: the kernel that boots next
 * need not be the newest (update-initramfs(8), dracut(8)).
 */
export const INITRAMFS: Readonly<Partial<Record<Initramfs, Tool>>> = {
  'initramfs-tools': initramfsTools('update-initramfs -u -k all'),
  // The boot partitions get copies (Proxmox VE, "Host Bootloader").
  proxmox: initramfsTools('update-initramfs -u -k all && proxmox-boot-tool refresh'),
  dracut: dracut('dracut --regenerate-all --force'),
  // openSUSE with entries of the Boot Loader Specification: each has a copy of the initramfs, which dracut alone leaves as it was.
  sdbootutil: dracut('sdbootutil mkinitrd'),
  // EndeavourOS and others name their images otherwise than dracut does by itself.
  'dracut-rebuild': dracut('dracut-rebuild'),
  'reinstall-kernels': dracut('reinstall-kernels'),
  // kernel-install(8): with layout=uki the initramfs is a part of the image that it puts together.
  'dracut-uki': dracut('kernel-install add-all'),
  // rpm-ostree(1): the initramfs of a deployment is its own to build; it reads /etc/dracut.conf.d then.
  'rpm-ostree': dracut('rpm-ostree initramfs --enable'),
  // transactional-update(8): the root file system is read-only, and the next snapshot gets the new one.
  'transactional-update': dracut('transactional-update initrd'),
  mkinitcpio: mkinitcpio('/etc/mkinitcpio.conf.d/vfio-persist.conf', 'file'),
  // Before version 37 it read no directory of drop-ins; the file is a shell script.
  'mkinitcpio-single': mkinitcpio('/etc/mkinitcpio.conf', 'block'),
  booster: booster('booster build --force /boot/booster-linux.img'),
  'booster-images': booster('/usr/lib/booster/regenerate_images'),
  mkinitfs: {
    files: ({ files }) => [
      file('/etc/mkinitfs/features.d/vfio-persist.modules', 'file', 'kernel/drivers/vfio'),
      file('/etc/mkinitfs/features.d/vfio-persist.files', 'file', ...files),
      // Ahead of the others, which may have the driver of the device.
      file('/etc/mkinitfs/mkinitfs.conf', 'block', 'features="vfio-persist $features"'),
    ],
    rebuild: 'mkinitfs',
    limit:
      "Alpine's initramfs loads only what the kernel parameter modules= names: put vfio-pci first in it where the driver of a device is in the initramfs too",
  },
}

/** Every file that a tool can have: those of an earlier plan that are not wanted any more must go. */
export const INITRAMFS_FILES: readonly Pick<PersistFile, 'path' | 'kind'>[] = [
  ...new Map(
    Object.values(INITRAMFS)
      .flatMap((tool) => tool.files({ modules: [], files: [] }))
      .map(({ path, kind }) => [path, { path, kind }]),
  ).values(),
]
