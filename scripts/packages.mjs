// The system packages that this project is built and tested with, and how to get those that are missing.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { osRelease, privateApt } from './apt.mjs'

/** Each package by what it brings: a program on PATH, or one of several files. `dnf` and `pacman` name it elsewhere. */
const BUILD = [
  { debian: 'g++', program: 'g++', dnf: 'gcc-c++', pacman: 'gcc' },
  { debian: 'make', program: 'make', dnf: 'make', pacman: 'make' },
  { debian: 'python3', program: 'python3', dnf: 'python3', pacman: 'python' },
]
const LAB = [
  { debian: 'busybox-static', program: 'busybox', fits: isStatic, dnf: 'busybox', pacman: 'busybox' },
  { debian: 'kmod', program: 'depmod', dnf: 'kmod', pacman: 'kmod' },
  { debian: 'xz-utils', program: 'xz', dnf: 'xz', pacman: 'xz' },
  { debian: 'util-linux', program: 'setpriv', dnf: 'util-linux', pacman: 'util-linux' },
  // What the tests put disks and network cards to use with.
  { debian: 'mount', program: 'losetup', dnf: 'util-linux', pacman: 'util-linux' },
  { debian: 'e2fsprogs', program: 'mkfs.ext4', dnf: 'e2fsprogs', pacman: 'e2fsprogs' },
  { debian: 'dmsetup', program: 'dmsetup', dnf: 'device-mapper', pacman: 'device-mapper' },
  { debian: 'iproute2', program: 'ip', dnf: 'iproute', pacman: 'iproute2' },
  { debian: 'pciutils', program: 'lspci', dnf: 'pciutils', pacman: 'pciutils' },
  {
    debian: 'pci.ids',
    files: ['/usr/share/misc/pci.ids', '/usr/share/hwdata/pci.ids'],
    dnf: 'hwdata',
    pacman: 'hwdata',
  },
  { debian: 'cmake', program: 'cmake', dnf: 'cmake', pacman: 'cmake' },
  // What people bind devices with today; the lab's tests ask both what they see.
  { debian: 'driverctl', program: 'driverctl', dnf: 'driverctl', pacman: 'driverctl' },
  { debian: 'dpdk', program: 'dpdk-devbind.py', dnf: 'dpdk-tools', pacman: 'dpdk' },
  // What checks the manual pages.
  { debian: 'mandoc', program: 'mandoc', dnf: 'mandoc', pacman: 'mandoc' },
  // Shells that complete the words of the command line.
  { debian: 'zsh', program: 'zsh', dnf: 'zsh', pacman: 'zsh' },
  { debian: 'fish', program: 'fish', dnf: 'fish', pacman: 'fish' },
  // What the page of a host is tried in.
  { debian: 'chromium', program: 'chromium', dnf: 'chromium', pacman: 'chromium' },
  // libvirt's own schema for the XML that is exported, and what checks it.
  { debian: 'libxml2-utils', program: 'xmllint', dnf: 'libxml2', pacman: 'libxml2' },
  {
    debian: Number(osRelease().VERSION_ID) < 13 ? 'libvirt0' : 'libvirt-common',
    files: ['/usr/share/libvirt/schemas/domain.rng'],
    dnf: 'libvirt-libs',
    pacman: 'libvirt',
  },
  // Network cards of the lab's topologies do not start without their boot ROMs.
  {
    debian: 'ipxe-qemu',
    files: [
      '/usr/lib/ipxe/qemu/efi-e1000.rom',
      '/usr/share/ipxe/qemu/efi-e1000.rom',
      '/usr/share/qemu/efi-e1000.rom',
    ],
    dnf: 'ipxe-roms-qemu',
    pacman: 'qemu-system-x86-firmware',
  },
  // What runs the binaries for other processors and C libraries, to see that they load.
  {
    debian: 'qemu-user-static',
    program: 'qemu-aarch64-static',
    dnf: 'qemu-user-static',
    pacman: 'qemu-user-static',
  },
  ...[
    ['arm64', 'aarch64'],
    ['s390x', 's390x'],
  ].map(([debian, gnu]) => ({
    debian: `libstdc++6-${debian}-cross`,
    files: [`/usr/${gnu}-linux-gnu/lib/libstdc++.so.6`],
    dnf: `gcc-c++-${gnu}-linux-gnu`,
    pacman: `${gnu}-linux-gnu-gcc`,
  })),
  { debian: 'musl', files: ['/lib/ld-musl-x86_64.so.1'], dnf: 'musl-libc', pacman: 'musl' },
  {
    debian: 'qemu-system-x86',
    program: 'qemu-system-x86_64',
    fits: isRecentQemu,
    wanted: 'QEMU 8 or newer',
    dnf: 'qemu-system-x86-core',
    pacman: 'qemu-system-x86',
  },
]
/** What the soak alone has: a program of DPDK that drives a network card, and all of DPDK with it. */
const SOAK = [{ debian: 'dpdk-dev', program: 'dpdk-testpmd', dnf: 'dpdk', pacman: 'dpdk' }]
/** What a kernel is built with, beside all of these. */
const KERNEL = [
  { debian: 'bc', program: 'bc', dnf: 'bc', pacman: 'bc' },
  { debian: 'bison', program: 'bison', dnf: 'bison', pacman: 'bison' },
  { debian: 'flex', program: 'flex', dnf: 'flex', pacman: 'flex' },
  {
    debian: 'libelf-dev',
    files: ['/usr/include/libelf.h'],
    dnf: 'elfutils-libelf-devel',
    pacman: 'libelf',
  },
  { debian: 'lz4', program: 'lz4', dnf: 'lz4', pacman: 'lz4' },
  // Its own tests of VFIO are linked with it.
  {
    debian: 'uuid-dev',
    files: ['/usr/include/uuid/uuid.h'],
    dnf: 'libuuid-devel',
    pacman: 'util-linux-libs',
  },
]

const QEMU_MAJOR = 8

/** The packages whose programs or files this machine does not have. */
export const missingPackages = (lab, soak = false) =>
  missingOf([...BUILD, ...(lab ? LAB : []), ...(soak ? SOAK : [])])

/** The same of those that only building a kernel needs. */
export const missingForKernels = () => missingOf([...BUILD, ...KERNEL])

const missingOf = (packages) =>
  packages.filter(({ program, files = [], fits = () => true }) => {
    if (program === undefined) return !files.some((file) => existsSync(file))
    const file = findProgram(program)
    return file === undefined || !fits(file)
  })

/** One line: what is missing, and the command that installs it here. */
export function howToInstall(missing) {
  const what = missing.map(({ debian, program, files, wanted }) => wanted ?? program ?? files?.[0] ?? debian)
  const names = (manager) => missing.map((entry) => entry[manager]).join(' ')
  const commands = {
    'apt-get': `apt-get install --no-install-recommends ${names('debian')}`,
    dnf: `dnf install ${names('dnf')}`,
    pacman: `pacman -S ${names('pacman')}`,
  }
  const manager = Object.keys(commands).find(findProgram)
  const cure =
    manager === undefined
      ? `install them with your distribution's package manager (Debian calls them ${names('debian')})`
      : `as root run: ${commands[manager]}${manager === 'apt-get' ? backportsHint(missing) : ''}`
  return `missing: ${what.join(', ')}; ${cure}`
}

function backportsHint(missing) {
  const { ID, VERSION_ID, VERSION_CODENAME } = osRelease()
  const qemu = missing.some(({ program }) => program === 'qemu-system-x86_64')
  return qemu && ID === 'debian' && Number(VERSION_ID) < 13
    ? ` (QEMU from ${VERSION_CODENAME}-backports)`
    : ''
}

export const canInstall = () => process.getuid?.() === 0 && findProgram('apt-get') !== undefined

/** Installs packages with apt-get; throws an Error with apt's own words when that fails. */
export async function installPackages(missing, cache, log) {
  const names = missing.map(({ debian }) => debian)
  const others = names.filter((name) => name !== 'qemu-system-x86')
  const lists = '/var/lib/apt/lists'
  const known = existsSync(lists) && readdirSync(lists).some((name) => name.includes('_Packages'))
  // Sources that do not answer are no reason to stop: the packages may come from those that do.
  if (!known) await apt(['update'], log)
  if (others.length > 0) {
    const install = ['install', '--no-install-recommends', ...others]
    if (!(await apt(install, log))) {
      await apt(['update'], log)
      if (!(await apt(install, log))) throw new Error(`apt-get could not install ${others.join(' ')}`)
    }
  }
  if (names.includes('qemu-system-x86')) await installQemu(cache, log)
}

async function installQemu(cache, log) {
  const install = ['install', '--no-install-recommends', 'qemu-system-x86']
  if (candidateMajor('qemu-system-x86') >= QEMU_MAJOR) {
    if (await apt(install, log)) return
    throw new Error('apt-get could not install qemu-system-x86')
  }
  const { VERSION_CODENAME: release } = osRelease()
  const backports = `${release}-backports`
  const suites = [release, `${release}-updates`, `${release}-security`, backports]
  const options = await privateApt(join(cache, 'apt', 'qemu'), suites)
  if (!(await apt([...options, '-t', backports, ...install], log))) {
    throw new Error(`apt-get could not install QEMU ${QEMU_MAJOR} or newer from ${backports}`)
  }
}

function candidateMajor(name) {
  const { stdout } = spawnSync('apt-cache', ['policy', name], {
    encoding: 'utf8',
    env: { ...process.env, LC_ALL: 'C' },
  })
  return Number(/Candidate: (?:\d+:)?(\d+)/.exec(stdout ?? '')?.[1] ?? 0)
}

async function apt(args, log) {
  const child = spawn('apt-get', ['-y', '-q', '-o', 'DPkg::Lock::Timeout=300', ...args], {
    stdio: ['ignore', log, log],
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
  })
  const [status] = await once(child, 'close')
  return status === 0
}

function findProgram(name) {
  const directories = [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/usr/bin', '/sbin', '/bin']
  return directories.map((directory) => join(directory, name)).find((file) => existsSync(file))
}

/** Whether a program runs without the libraries of the machine it came from: it asks for no interpreter. */
function isStatic(file) {
  const bytes = readFileSync(file)
  const at = Number(bytes.readBigUInt64LE(32))
  const size = bytes.readUInt16LE(54)
  const INTERPRETER = 3
  const headers = Array.from({ length: bytes.readUInt16LE(56) }, (_none, index) =>
    bytes.readUInt32LE(at + index * size),
  )
  return !headers.includes(INTERPRETER)
}

function isRecentQemu(file) {
  const { stdout } = spawnSync(file, ['--version'], { encoding: 'utf8' })
  return Number(/version (\d+)/.exec(stdout ?? '')?.[1] ?? 0) >= QEMU_MAJOR
}
