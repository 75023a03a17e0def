import { exists, listNames, readBytes, readText } from '../sysfs/files.js'
import { leavingOut } from '../sysfs/unseen.js'
import type { BootLoader } from './boot-loader.js'
import type { Initramfs } from './initramfs.js'

/** A file tree to look at. */
export interface RootTree {
  /** Its root; default `/`. */
  readonly root?: string | undefined
}

const PROGRAM_DIRECTORIES = ['usr/sbin', 'usr/bin', 'sbin', 'bin', 'run/current-system/sw/bin']

/** One look at how a host boots. What cannot be read counts as not there: then a warning takes the place of advice. */
class Root {
  readonly #root: string

  constructor({ root = '/' }: RootTree) {
    this.#root = root.replace(/\/+$/, '')
  }

  has(path: string): boolean {
    return exists(`${this.#root}/${path}`)
  }

  text(path: string): string {
    return readText(`${this.#root}/${path}`) ?? ''
  }

  bytes(path: string): Buffer | null {
    return readBytes(`${this.#root}/${path}`)
  }

  names(path: string): string[] {
    return listNames(`${this.#root}/${path}`)
  }

  /** Where a program is, as an absolute path of the tree. */
  program(name: string): string | null {
    const directory = PROGRAM_DIRECTORIES.find((place) => this.has(`${place}/${name}`))
    return directory === undefined ? null : `/${directory}/${name}`
  }

  runs(name: string): boolean {
    return this.program(name) !== null
  }

  /** The first of these paths that there is, from the root of the tree. */
  first(...paths: string[]): string | null {
    const found = paths.find((path) => this.has(path))
    return found === undefined ? null : `/${found}`
  }

  /** `ID` and `ID_LIKE` of os-release. */
  get distribution(): string[] {
    const release = this.text('etc/os-release') || this.text('usr/lib/os-release')
    return [...release.matchAll(/^ID(?:_LIKE)?=["']?([^"'\n]*)/gm)].flatMap(([, ids = '']) => ids.split(' '))
  }
}

/** Where kernel-install(8) is told what to do: the first of these files counts, and all drop-ins after it. */
const KERNEL_INSTALL = ['etc/kernel', 'run/kernel', 'usr/local/lib/kernel', 'usr/lib/kernel']

/** What it is told for one key; `null` for nothing. */
function kernelInstall(root: Root, key: string): string | null {
  const main = KERNEL_INSTALL.find((directory) => root.has(`${directory}/install.conf`))
  const dropIns = [...KERNEL_INSTALL].reverse().flatMap((directory) =>
    root
      .names(`${directory}/install.conf.d`)
      .filter((name) => name.endsWith('.conf'))
      .map((name) => `${directory}/install.conf.d/${name}`),
  )
  const files = [...(main === undefined ? [] : [`${main}/install.conf`]), ...dropIns]
  const line = new RegExp(`^\\s*${key}=["']?([^\\s"']+)`, 'gm')
  const told = files.flatMap((path) => [...root.text(path).matchAll(line)].map(([, value = '']) => value))
  return told.at(-1) ?? null
}

/** openSUSE's tool for entries of systemd-boot and of GRUB that reads such; it may be there and have nothing to do. */
function hasSdbootutil(root: Root): boolean {
  if (!root.runs('sdbootutil') || !root.has('etc/kernel/cmdline')) return false
  const type = /^\s*LOADER_TYPE=["']?([\w-]+)/m.exec(root.text('etc/sysconfig/bootloader'))?.[1]
  if (type !== undefined) return type === 'systemd-boot' || type === 'grub2-bls'
  return ESPS.some((place) => root.names(`${place}/loader/entries`).length > 0)
}

/** What is installed is not always what is used: what runs when a kernel is installed decides. */
interface Builder {
  readonly name: Initramfs
  readonly isThere: (root: Root) => boolean
  readonly isInUse: (root: Root) => boolean
}

const hooked = (pattern: RegExp) => (root: Root) =>
  ['usr/share/libalpm/hooks', 'etc/pacman.d/hooks', 'etc/kernel/postinst.d'].some((directory) =>
    root.names(directory).some((name) => pattern.test(name)),
  )

const runs = (program: string) => (root: Root) => root.runs(program)

const BUILDERS: readonly Builder[] = [
  {
    name: 'initramfs-tools',
    // dracut brings an update-initramfs of its own on some.
    isThere: (root) => root.runs('mkinitramfs') || (root.runs('update-initramfs') && !root.runs('dracut')),
    isInUse: (root) => root.has('etc/kernel/postinst.d/initramfs-tools'),
  },
  {
    name: 'dracut',
    isThere: runs('dracut'),
    isInUse: (root) =>
      hooked(/dracut/)(root) || root.names('usr/lib/kernel/install.d').some((name) => /dracut/.test(name)),
  },
  {
    name: 'mkinitcpio',
    isThere: runs('mkinitcpio'),
    isInUse: (root) =>
      root.names('etc/mkinitcpio.d').some((name) => name.endsWith('.preset')) || hooked(/mkinitcpio/)(root),
  },
  { name: 'booster', isThere: runs('booster'), isInUse: hooked(/booster/) },
  { name: 'mkinitfs', isThere: runs('mkinitfs'), isInUse: (root) => root.has('etc/mkinitfs/mkinitfs.conf') },
]

/** Where programs of systems that live in memory or on an image leave their traces. */
const LIVE = ['run/live/medium', 'run/initramfs/live', 'run/archiso', 'run/miso', 'cdrom/casper']

/** live-boot(7), casper(7), dracut.cmdline(7), archiso. */
const LIVE_PARAMETER =
  /(?:^|\s)(?:boot=(?:live|casper)|rd\.live\.image|root=live:\S+|(?:archiso|miso)basedir=\S+)(?:\s|$)/

/**
 * What builds the initramfs of a host, or what the host is made from where nothing that is written to /etc would stay.
 * `none` where nothing that is known here does.
 */
export function detectInitramfs(tree: RootTree = {}): Initramfs {
  return leavingOut(() => {
    const root = new Root(tree)
    return madeFrom(root) ?? builderOf(root)
  })
}

function madeFrom(root: Root): Initramfs | null {
  const ids = root.distribution
  if (root.has('etc/NIXOS') || ids.includes('nixos')) return 'nixos'
  if (ids.includes('guix') || (root.has('gnu/store') && root.has('run/current-system'))) return 'guix'
  if (ids.includes('talos')) return 'talos'
  if (root.runs('midclt')) return 'truenas'
  if (root.has('etc/unraid-version')) return 'unraid'
  // The Machine Config Operator owns /etc, and marks a node whose files or parameters are others as degraded.
  if (root.has('etc/machine-config-daemon') || ids.includes('rhcos') || ids.includes('scos'))
    return 'machine-config'
  if (ids.includes('flatcar')) return 'ignition'
  if (root.has('run/ostree-booted')) return root.runs('rpm-ostree') ? 'rpm-ostree' : 'image'
  if (root.runs('transactional-update') && isReadOnly(root, '/')) return 'transactional-update'
  const isLive = LIVE.some((path) => root.has(path)) || LIVE_PARAMETER.test(root.text('proc/cmdline'))
  if (isLive || isLostAtBoot(root)) return 'volatile'
  return null
}

function builderOf(root: Root): Initramfs {
  const installed = BUILDERS.filter(({ isThere }) => isThere(root))
  const asked = kernelInstall(root, 'initrd_generator')
  // One that is not known here (ugrd, mkosi-initrd) is used all the same, and another one that is installed is not.
  if (asked !== null && root.runs('kernel-install') && !BUILDERS.some(({ name }) => name === asked))
    return 'none'
  const chosen =
    installed.find(({ name }) => name === asked) ??
    installed.find(({ isInUse }) => isInUse(root)) ??
    installed[0]
  switch (chosen?.name) {
    case 'initramfs-tools':
      // proxmox-boot-tool keeps its list of partitions there.
      return root.has('etc/kernel/proxmox-boot-uuids') ? 'proxmox' : 'initramfs-tools'
    case 'dracut':
      if (hasSdbootutil(root)) return 'sdbootutil'
      if (root.runs('dracut-rebuild')) return 'dracut-rebuild'
      if (root.runs('kernel-install') && kernelInstall(root, 'layout') === 'uki') return 'dracut-uki'
      return root.runs('reinstall-kernels') ? 'reinstall-kernels' : 'dracut'
    case 'mkinitcpio':
      return readsDropIns(root) ? 'mkinitcpio' : 'mkinitcpio-single'
    case 'booster':
      return root.has('usr/lib/booster/regenerate_images') ? 'booster-images' : 'booster'
    default:
      return chosen?.name ?? 'none'
  }
}

/** mkinitcpio is a script: one that names no drop-ins reads none. */
function readsDropIns(root: Root): boolean {
  const script = root.text((root.program('mkinitcpio') ?? '').slice(1))
  return script === '' || script.includes('conf.d')
}

interface MountLine {
  readonly source: string
  readonly point: string
  readonly type: string
  readonly options: readonly string[]
}

function mountsOf(text: string): MountLine[] {
  return text.split('\n').flatMap((line) => {
    const [source, point, type, options] = line.split(' ')
    return source && point && type && options ? [{ source, point, type, options: options.split(',') }] : []
  })
}

/** The mount that a path lies in: of several at one place the last. */
function mountOf(mounts: readonly MountLine[], path: string): MountLine | undefined {
  let found: MountLine | undefined
  for (const mount of mounts) {
    const inside = mount.point === '/' || path === mount.point || path.startsWith(`${mount.point}/`)
    if (inside && mount.point.length >= (found?.point.length ?? 0)) found = mount
  }
  return found
}

/** As it is mounted, or where that does not show as /etc/fstab has it. */
function isReadOnly(root: Root, path: string): boolean {
  const mount = mountOf(mountsOf(root.text('proc/mounts')), path)
  if (mount) return mount.options.includes('ro')
  const line = root
    .text('etc/fstab')
    .split('\n')
    .map((text) => text.trim().split(/\s+/))
    .find(([source = '#', point]) => !source.startsWith('#') && point === path)
  return line?.[3]?.split(',').includes('ro') ?? false
}

/** File systems in memory, and such that nobody can write to. */
const IN_MEMORY = new Set(['tmpfs', 'ramfs', 'rootfs'])
const ONLY_READ = new Set(['squashfs', 'erofs', 'iso9660', 'cramfs', 'romfs'])

/** Is /etc in memory, on an image, or over one with its changes in memory? */
function isLostAtBoot(root: Root): boolean {
  const mounts = mountsOf(root.text('proc/mounts'))
  const etc = mountOf(mounts, '/etc')
  if (!etc) return false
  if (IN_MEMORY.has(etc.type) || ONLY_READ.has(etc.type) || etc.options.includes('ro')) return true
  const upper = etc.options.find((option) => option.startsWith('upperdir='))?.slice('upperdir='.length)
  // An overlay's upper directory may lie in a mount that another namespace has.
  const below = upper === undefined ? undefined : mountOf(mounts, upper)
  return etc.type === 'overlay' && below !== undefined && below !== etc && IN_MEMORY.has(below.type)
}

/** The host's `modprobe` by its path; its name alone where there is none in sight. */
export const findModprobe = (tree: RootTree = {}): string =>
  leavingOut(() => new Root(tree).program('modprobe') ?? 'modprobe')

/** What a boot loader that keeps to the Boot Loader Interface says of itself. */
const LOADER_INFO = 'sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f'

/** What keeps the kernel command line of a host. */
export const detectBootLoader = (tree: RootTree = {}): BootLoader =>
  leavingOut(() => loaderOf(new Root(tree)))

/** GRUB and syslinux put the path of the kernel into its command line (`BOOT_IMAGE=`). */
const byGrub = (root: Root) => /(?:^|\s)BOOT_IMAGE=/.test(root.text('proc/cmdline'))

/** What starts the kernel as a program of the firmware names its initramfs there, as that writes paths: `initrd=\EFI\…`. */
const byFirmware = (root: Root) => /(?:^|\s)initrd=\S*\\/.test(root.text('proc/cmdline'))

function loaderOf(root: Root): BootLoader {
  const running = (root.bytes(LOADER_INFO)?.toString('utf16le') ?? '').toLowerCase()
  // The files of GRUB may have stayed where another loader took over.
  const isEntry = running.includes('systemd-boot') || (running === '' && byFirmware(root))
  const all = [
    managed,
    ...(isEntry ? [systemdBoot, limine, refind] : [grub, systemdBoot]),
    limine,
    zipl,
    extlinux,
    refind,
    raspberryPi,
  ]
  const first = running.includes('limine') ? limine(root) : running.includes('refind') ? refind(root) : null
  if (first) return first
  for (const detect of all) {
    const found = detect(root)
    if (found) return found
  }
  return { name: 'unknown', path: null, command: null }
}

/** Tools that own the command line, whatever boots. */
function managed(root: Root): BootLoader | null {
  if (root.has('run/ostree-booted') && root.runs('rpm-ostree'))
    return { name: 'rpm-ostree', path: null, command: null }
  if (root.has('etc/kernel/proxmox-boot-uuids')) {
    const command = 'proxmox-boot-tool refresh'
    // The installer writes this file on ZFS whatever boots: with Secure Boot, or without UEFI, that is GRUB.
    return root.has('etc/kernel/cmdline') && !byGrub(root)
      ? { name: 'proxmox-boot-tool', path: '/etc/kernel/cmdline', command }
      : { name: 'grub', path: '/etc/default/grub', command }
  }
  if (hasSdbootutil(root))
    return { name: 'sdbootutil', path: '/etc/kernel/cmdline', command: 'sdbootutil update-all-entries' }
  if (root.runs('kernelstub')) return { name: 'kernelstub', path: null, command: null }
  if (root.runs('grubby') && (root.names('boot/loader/entries').length > 0 || root.has('etc/default/grub'))) {
    // grubby writes the entries of IBM Z, which zipl has to install.
    const command = root.has('etc/zipl.conf') && root.runs('zipl') ? 'zipl' : null
    return { name: 'grubby', path: null, command }
  }
  return null
}

function grub(root: Root): BootLoader | null {
  if (!root.has('etc/default/grub')) return null
  const path = '/etc/default/grub'
  if (root.runs('transactional-update') && isReadOnly(root, '/'))
    return { name: 'grub', path, command: 'transactional-update grub.cfg' }
  if (root.runs('update-grub')) return { name: 'grub', path, command: 'update-grub' }
  const directory = root.has('boot/grub2') || root.runs('grub2-mkconfig') ? 'grub2' : 'grub'
  const program = root.runs('grub2-mkconfig') ? 'grub2-mkconfig' : 'grub-mkconfig'
  return { name: 'grub', path, command: `${program} -o /boot/${directory}/grub.cfg` }
}

const ESPS = ['boot', 'efi', 'boot/efi']

function systemdBoot(root: Root): BootLoader | null {
  const esp = ESPS.find((place) => root.has(`${place}/loader/loader.conf`))
  const uki = ESPS.find((place) => root.names(`${place}/EFI/Linux`).some((name) => /\.efi$/i.test(name)))
  if (esp === undefined && uki === undefined) return null
  const entries = esp === undefined ? [] : root.names(`${esp}/loader/entries`)
  // mkinitcpio and ukify take drop-ins as well.
  const dropIn = root.names('etc/cmdline.d').find((name) => name.endsWith('.conf'))
  const line = root.first('etc/kernel/cmdline', ...(dropIn === undefined ? [] : [`etc/cmdline.d/${dropIn}`]))
  if (uki !== undefined && entries.length === 0 && line)
    return { name: 'uki', path: line, command: UKI_COMMANDS[builderOf(root)] ?? null }
  if (line && root.runs('kernel-install'))
    return { name: 'kernel-install', path: line, command: 'kernel-install add-all' }
  return { name: 'systemd-boot', path: `/${esp ?? uki}/loader/entries/*.conf`, command: null }
}

/** A unified image holds the command line: who builds the initramfs builds it too. */
const UKI_COMMANDS: Readonly<Partial<Record<Initramfs, string>>> = {
  mkinitcpio: 'mkinitcpio -P',
  'mkinitcpio-single': 'mkinitcpio -P',
  dracut: 'dracut --regenerate-all --force',
  'dracut-uki': 'kernel-install add-all',
}

function limine(root: Root): BootLoader | null {
  const path = root.first('etc/default/limine')
  if (path) {
    const command = ['limine-update', 'limine-mkinitcpio', 'limine-dracut'].find((name) => root.runs(name))
    return { name: 'limine', path, command: command ?? null }
  }
  const entries = root.first(
    ...ESPS.flatMap((place) => [
      `${place}/limine.conf`,
      `${place}/limine/limine.conf`,
      `${place}/EFI/limine/limine.conf`,
      `${place}/EFI/BOOT/limine.conf`,
      `${place}/limine.cfg`,
    ]),
  )
  return entries === null ? null : { name: 'limine-entries', path: entries, command: null }
}

const zipl = (root: Root): BootLoader | null =>
  root.has('etc/zipl.conf') ? { name: 'zipl', path: '/etc/zipl.conf', command: 'zipl' } : null

function extlinux(root: Root): BootLoader | null {
  if (root.has('etc/update-extlinux.conf'))
    return { name: 'update-extlinux', path: '/etc/update-extlinux.conf', command: 'update-extlinux' }
  if (root.runs('u-boot-update'))
    return { name: 'u-boot-menu', path: '/etc/default/u-boot', command: 'u-boot-update' }
  const path = root.first(
    'boot/extlinux/extlinux.conf',
    'boot/extlinux.conf',
    'boot/syslinux/syslinux.cfg',
    'boot/syslinux/extlinux.conf',
  )
  return path === null ? null : { name: 'extlinux', path, command: null }
}

function refind(root: Root): BootLoader | null {
  const path = root.first('boot/refind_linux.conf')
  return path === null ? null : { name: 'refind', path, command: null }
}

function raspberryPi(root: Root): BootLoader | null {
  const path = root.first('boot/firmware/cmdline.txt', 'boot/cmdline.txt')
  return path === null ? null : { name: 'raspberry-pi', path, command: null }
}

/** The modules that a kernel has built in. @param directory the kernel's module directory; `null`: not known */
export function builtinModules(directory: string | null): ReadonlySet<string> {
  const list = directory === null ? null : readText(`${directory}/modules.builtin`)
  const names = (list ?? '').split('\n').map((line) => /([^/]+)\.ko$/.exec(line)?.[1]?.replaceAll('-', '_'))
  return new Set(names.filter((name) => name !== undefined))
}
