import { listNames, readText } from '../sysfs/files.js'
import type { RootTree } from './boot-system.js'
import { MODPROBE_FILE, UDEV_FILE } from './plan.js'
import { persistedIn } from './write.js'

/** A device that was persisted, and for which driver. */
export interface PersistedDevice {
  readonly address: string
  readonly driver: string
}

/** A line of the boot configuration that has a say in which driver gets which device. */
export interface BootLine {
  /** The file, or `kernel command line`. */
  readonly source: string
  readonly text: string
  /** What it gives devices to: a driver, or `null` where it only keeps one away. */
  readonly driver: string | null
  /** As the driver takes them. */
  readonly ids: readonly string[]
  readonly address: string | null
  /** It is ours: what else has the ids was told when it was written. */
  readonly isOurs: boolean
}

/** What the files of a host say about its next boot. */
export interface PersistedFacts {
  readonly devices: readonly PersistedDevice[]
  /** Why files that ought to be ours cannot be trusted, a sentence each. */
  readonly problems: readonly string[]
  readonly others: readonly BootLine[]
}

const MODPROBE_DIRECTORIES = [
  'etc/modprobe.d',
  'run/modprobe.d',
  'usr/local/lib/modprobe.d',
  'usr/lib/modprobe.d',
  'lib/modprobe.d',
]
/** Lists of modules to load, whose lines may have parameters. */
const MODULE_LISTS = ['etc/modules', 'etc/initramfs-tools/modules']
/** Programs of the initramfs that people write for this. */
const SCRIPTS = [
  ...['init-top', 'init-premount', 'local-top', 'local-premount', 'nfs-top', 'init-bottom'].map(
    (stage) => `etc/initramfs-tools/scripts/${stage}`,
  ),
  'etc/initcpio/hooks',
  'etc/initcpio/install',
  'etc/local.d',
]
const UDEV_DIRECTORIES = ['etc/udev/rules.d', 'run/udev/rules.d', 'usr/lib/udev/rules.d', 'lib/udev/rules.d']
const DRIVERCTL = 'etc/driverctl.d'

/** Reads what binds devices at the boot of a host: our own files, and those of others. */
export function readPersistence({ root = '/' }: RootTree = {}): PersistedFacts {
  const top = root.replace(/\/+$/, '')
  const read = (path: string) => readText(`${top}/${path}`)?.split('\n') ?? []
  const inDirectories = (directories: readonly string[], suffix: string, own: string) => {
    const seen = new Set<string>()
    return directories.flatMap((directory) =>
      listNames(`${top}/${directory}`)
        .filter((name) => name.endsWith(suffix) && `/${directory}/${name}` !== own)
        // With /usr merged a directory shows twice; of two files of a name the first counts.
        .filter((name) => !seen.has(name) && seen.add(name))
        .sort()
        .flatMap((name) =>
          read(`${directory}/${name}`).map((text) => ({ source: `/${directory}/${name}`, text })),
        ),
    )
  }
  const { devices, problems } = persistedIn((path) => readText(`${top}${path}`))
  return {
    devices,
    problems,
    others: [
      ...read(MODPROBE_FILE.slice(1))
        .flatMap((text) => modprobeLine({ source: MODPROBE_FILE, text }))
        .filter(({ ids }) => ids.length > 0)
        .map((own) => ({ ...own, isOurs: true })),
      ...inDirectories(MODPROBE_DIRECTORIES, '.conf', MODPROBE_FILE).flatMap(modprobeLine),
      ...MODULE_LISTS.flatMap((path) =>
        read(path).flatMap((text) => moduleListLine({ source: `/${path}`, text })),
      ),
      ...inDirectories(SCRIPTS, '', '').flatMap(scriptLine),
      ...inDirectories(UDEV_DIRECTORIES, '.rules', UDEV_FILE).flatMap(udevLine),
      ...listNames(`${top}/${DRIVERCTL}`)
        .sort()
        .flatMap((name) => driverctlFile(`/${DRIVERCTL}/${name}`, read(`${DRIVERCTL}/${name}`)[0] ?? '')),
    ],
  }
}

type Line = Pick<BootLine, 'source' | 'text'>

const isIdDriver = (name: string) => /^(vfio[-_]pci|pci[-_]stub)$/.test(name)
const idList = (text: string) => text.split(',').filter((id) => id !== '')
const line = ({ source, text }: Line, rest: Partial<BootLine>): BootLine => ({
  source,
  text: text.trim(),
  driver: null,
  ids: [],
  address: null,
  isOurs: false,
  ...rest,
})

function modprobeLine(from: Line): BootLine[] {
  const [word = '', module = '', ...rest] = from.text.trim().split(/\s+/)
  const about = rest.join(' ')
  if (word === 'options' && isIdDriver(module)) {
    const ids = /\bids=(\S+)/.exec(about)?.[1]
    return ids === undefined ? [] : [line(from, { driver: module.replace('_', '-'), ids: idList(ids) })]
  }
  if (word === 'alias') return aliasLine(from, module, rest[0] ?? '')
  if (word === 'install' && /driver_override|vfio/.test(`${module} ${about}`)) return [line(from, {})]
  if (word === 'blacklist' && isIdDriver(module)) return [line(from, {})]
  return word === 'softdep' && /\bvfio[-_]pci\b/.test(about) ? [line(from, {})] : []
}

/** `alias pci:v000010DEd00001C03sv*sd*bc*sc*i* vfio-pci` */
function aliasLine(from: Line, alias: string, driver: string): BootLine[] {
  if (!isIdDriver(driver)) return []
  const [, vendor, device, subvendor, subdevice] =
    /^pci:v0000([0-9a-f]{4})d0000([0-9a-f]{4})(?:sv0000([0-9a-f]{4})sd0000([0-9a-f]{4}))?/i.exec(alias) ?? []
  const ids = [vendor, device, subvendor, subdevice].filter((field) => field !== undefined)
  return [
    line(from, {
      driver: driver.replace('_', '-'),
      ids: ids.length === 0 ? [] : [ids.join(':').toLowerCase()],
    }),
  ]
}

/** A line of a shell that sets an override or adds ids; which device it means, a variable may say. */
function scriptLine(from: Line): BootLine[] {
  const { text } = from
  if (text.trim().startsWith('#') || !/driver_override|\bnew_id\b|vfio[-_]pci/.test(text)) return []
  const address = /([0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7])/i.exec(text)?.[1] ?? null
  const driver = address === null ? null : (/\b(vfio[-_]pci|pci[-_]stub)\b/.exec(text)?.[1] ?? null)
  return [line(from, { driver: driver?.replace('_', '-') ?? null, address })]
}

function moduleListLine(from: Line): BootLine[] {
  const [module = '', ...rest] = from.text.trim().split(/\s+/)
  const ids = /\bids=(\S+)/.exec(rest.join(' '))?.[1]
  if (!isIdDriver(module) || ids === undefined) return []
  return [line(from, { driver: module.replace('_', '-'), ids: idList(ids) })]
}

function udevLine(from: Line): BootLine[] {
  if (from.text.startsWith('#') || !from.text.includes('driver_override')) return []
  const driver = /driver_override\}="([\w-]+)"/.exec(from.text)?.[1] ?? null
  const address = /KERNEL=="([0-9a-f:.]+)"/i.exec(from.text)?.[1] ?? null
  return [line(from, { driver, address })]
}

function driverctlFile(source: string, driver: string): BootLine[] {
  const address = /(?:^|-)([0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7])$/.exec(
    source.slice(source.lastIndexOf('/') + 1),
  )?.[1]
  return address === undefined
    ? []
    : [line({ source, text: driver }, { driver: driver.trim() || null, address })]
}

/** What the kernel command line gives to drivers by ids. */
export function commandLineIds(commandLine: string): BootLine[] {
  return commandLine.split(/\s+/).flatMap((text) => {
    const [, driver, ids] = /^(vfio[-_]pci|pci[-_]stub)\.ids=(.*)$/.exec(text.replaceAll('"', '')) ?? []
    if (driver === undefined || ids === undefined) return []
    return [
      line({ source: 'kernel command line', text }, { driver: driver.replace('_', '-'), ids: idList(ids) }),
    ]
  })
}
