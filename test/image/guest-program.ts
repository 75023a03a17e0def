// In a guest that stands for a node: runs a container of the image, and says what it did to the disks and how they came back.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync } from 'node:fs'
import { Host } from 'vfio'
import { driverOf, load } from '../lab/binding.js'
import { LACKS } from '../lab/podman.js'

/** What the container is: words of podman, the image as a directory, and its command. */
export interface Task {
  readonly words: readonly string[]
  readonly rootfs: string
  readonly command: readonly string[]
}

/** What the program says, a line of JSON. */
export interface Said {
  /** The driver of each function of the disks' groups, by address: before, after the container, and when all is released. */
  readonly before: Drivers
  readonly bound: Drivers
  readonly released: Drivers
  readonly hadVfio: boolean
  readonly journal: readonly string[]
  readonly status: number | null
  readonly output: string
}

export type Drivers = Readonly<Record<string, string | null>>

const { words, rootfs, command } = JSON.parse(process.argv[2] ?? '') as Task

const directory = mkdtempSync('/run/image-')
// Those of a node.
for (const name of ['/run/vfio', '/run/udev']) mkdirSync(name, { recursive: true })
if (!existsSync('/sys/fs/cgroup/cgroup.controllers'))
  execFileSync('mount', ['-t', 'cgroup2', 'none', '/sys/fs/cgroup'])
load(['nvme'])

const seen = new Host().snapshot()
const members = seen.groups
  .filter((group) => group.members.some((address) => seen.device(address).class >>> 8 === 0x0108))
  .flatMap((group) => group.members.filter((address) => seen.device(address).headerType === 'normal'))
const drivers = (): Drivers => Object.fromEntries(members.map((address) => [address, driverOf(address)]))

const before = drivers()
const hadVfio = existsSync('/sys/module/vfio_pci')
const { status, stdout, stderr } = spawnSync(
  'podman',
  [
    ...[`--root=${directory}/root`, `--runroot=${directory}/runroot`],
    ...['--cgroup-manager=cgroupfs', '--events-backend=none', LACKS[0] ?? '', 'run', '--rm'],
    ...['--log-driver=none', ...LACKS.slice(1), ...words, '--rootfs', rootfs, ...command],
  ],
  { encoding: 'utf8' },
)
const bound = drivers()
const journal = readdirSync('/run/vfio').filter((name) => name.endsWith('.json'))
const { stderr: complaint } = spawnSync(process.execPath, ['dist/cli/main.js', 'release', '--all'], {
  encoding: 'utf8',
})
const said: Said = {
  ...{ before, bound, released: drivers(), hadVfio, journal, status },
  output: stdout + stderr + complaint,
}
console.log(JSON.stringify(said))
