import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { release as kernelRelease } from 'node:os'
import { dirname } from 'node:path'
import {
  assess,
  assessUses,
  assign,
  type Backend,
  Host,
  type HostUse,
  openDevice,
  type PciDevice,
  planAssignment,
  type Snapshot,
} from 'vfio'
import { skip } from '../fixtures/skip.js'
import { driverOf, load, put } from './binding.js'
import { modes } from './modes.js'

const host = new Host()
const POINT = '/run/lab/uses'
/** The root of the package. */
const ROOT = dirname(createRequire(import.meta.url).resolve('vfio/package.json'))

const run = (program: string, ...args: string[]) =>
  execFileSync(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
/** Does this kernel have a module, as a file or built in? */
const has = (module: string) => spawnSync('modprobe', ['-q', module]).status === 0
const commandOf = (pid: number | undefined) => readFileSync(`/proc/${pid}/comm`, 'utf8').trim()
const namesIn = (directory: string) => (existsSync(directory) ? readdirSync(directory).sort() : [])

/** Uses as `severity kind: what`. */
const lines = (uses: readonly HostUse[]) =>
  uses.map(({ severity, kind, what }) => `${severity} ${kind}: ${what}`)
const usesOf = (address: string) => lines(assessUses(host.snapshot(), address))

/** Waits until the kernel has made something of a device that it was given back. */
async function until<T>(what: string, look: () => T | undefined): Promise<T> {
  for (const end = Date.now() + 200_000; Date.now() < end; ) {
    const found = look()
    if (found !== undefined) return found
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  throw new Error(`${what} did not come up`)
}

/** What a bound device is opened with, and what it is called. */
function nodeOf(seen: Snapshot, address: string, backend: Backend): { path: string; what: string } {
  const { group, vfioDevice } = seen.device(address)
  return backend === 'group'
    ? { path: `/dev/vfio/${group}`, what: `group ${group}` }
    : { path: `/dev/vfio/devices/${vfioDevice}`, what: `${vfioDevice}` }
}

interface Disk {
  readonly address: string
  /** For instance `nvme0n1`. */
  readonly name: string
}

/** The disks of NVMe controllers that are on their host driver. */
async function disks(seen: Snapshot): Promise<Disk[]> {
  const found: Disk[] = []
  for (const { address } of seen.devices.filter((device) => device.class === 0x010802)) {
    put(address, 'host')
    if (driverOf(address) !== 'nvme') continue
    const name = await until(`a disk of ${address}`, () => diskOf(address))
    found.push({ address, name })
  }
  return found
}

/** Does a disk keep what is written to it? Most of the lab's swallow it, and read as zeroes. */
function keeps({ name }: Disk): boolean {
  const node = `/dev/${name}`
  const pattern = Buffer.alloc(4096, 0x5a)
  writeFileSync(node, pattern, { flag: 'r+' })
  run('blockdev', '--flushbufs', node)
  return run('head', '-c', '4096', node).equals(pattern)
}

/** By the name of the path or the disk: with native multipath `nvme0c1n1` belongs to `nvme0n1`. */
function diskOf(address: string): string | undefined {
  const directory = `/sys/bus/pci/devices/${address}/nvme`
  const entries = namesIn(directory).flatMap((controller) => namesIn(`${directory}/${controller}`))
  const name = entries
    .map((entry) => /^(nvme\d+)(?:c\d+)?(n\d+)$/.exec(entry)?.slice(1).join(''))
    .find(Boolean)
  return name !== undefined && existsSync(`/dev/${name}`) ? name : undefined
}

describe('what this guest uses', () => {
  let seen: Snapshot

  before(() => {
    load(['nvme', 'e1000e', 'igb', 'ext4', 'dm-mod', 'vfat'])
    seen = host.snapshot()
    mkdirSync(POINT, { recursive: true })
  })

  it('holds the device that carries its root file system', () => {
    const carrier = seen.devices.filter(({ address }) =>
      namesIn(`/sys/bus/pci/devices/${address}`).some((name) =>
        existsSync(`/sys/bus/pci/devices/${address}/${name}/mount_tag`),
      ),
    )
    assert.equal(carrier.length, 1)
    const [{ address } = { address: '' }] = carrier
    const modules = `/usr/lib/modules/${kernelRelease()}`
    assert.deepEqual(usesOf(address), [
      `blocks mount: the 9p share "lab_root" is mounted at /run/lab/host and ${modules}`,
    ])
  })

  it('holds the device that it talks to the outside by, and says in which processes', () => {
    const port = namesIn('/sys/class/virtio-ports')[0] ?? ''
    const parts = realpathSync(`/sys/class/virtio-ports/${port}`).split('/')
    const address = parts.filter((part) => seen.has(part)).at(-1) ?? ''
    assert.match(
      usesOf(address).join('\n'),
      /^blocks holder: \/dev\/vport\dp1 is open in .*busybox \(pid 1\)/m,
    )
  })

  it('holds every bridge that something hangs on, and no other', () => {
    for (const bridge of seen.devices.filter(({ headerType }) => headerType === 'bridge')) {
      const path = realpathSync(`/sys/bus/pci/devices/${bridge.address}`)
      const isUsed = namesIn(path).some((name) => seen.has(name))
      const uses = lines(assessUses(seen, bridge.address)).filter((use) =>
        use.startsWith('blocks other: other functions hang on it'),
      )
      assert.equal(uses.length, isUsed ? 1 : 0, bridge.address)
    }
  })

  it('shows its terminals on the boot display', function () {
    const display = seen.devices.find(({ bootVga }) => bootVga)
    if (!display) return skip(this, 'this topology has no boot display')
    assert.match(usesOf(display.address).join('\n'), /^blocks display: .* shows the terminals of the host/m)
  })

  describe('of disks', () => {
    let all: Disk[]
    const cleanups: (() => void)[] = []

    function first(): Disk {
      const [disk] = all
      assert(disk)
      return disk
    }

    /** For what has to be read again. */
    const writable = () => all.find(keeps)

    before(async function () {
      all = await disks(seen)
      if (all.length === 0) skip(this, 'this topology has no disk')
    })

    afterEach(() => {
      for (const cleanup of cleanups.splice(0).reverse()) cleanup()
      const now = host.snapshot()
      for (const { address } of all) {
        assert.deepEqual(lines(assessUses(now, address)), [], 'at the end nothing is in use')
      }
    })

    function mount(device: string): void {
      run('mount', device, POINT)
      cleanups.push(() => run('umount', POINT))
    }

    function format(disk: Disk): boolean {
      if (!has('ext4')) return false
      run('mkfs.ext4', '-q', '-F', `/dev/${disk.name}`)
      return true
    }

    /** A volume over the first MiB of a disk, as LVM would make it. */
    function volume(name: string, uuid: string, below: string): string {
      run(
        'dmsetup',
        'create',
        name,
        '--noudevrules',
        '--noudevsync',
        '--uuid',
        uuid,
        '--table',
        `0 20480 linear /dev/${below} 2048`,
      )
      cleanups.push(() => run('dmsetup', 'remove', '--noudevsync', '--retry', name))
      run('dmsetup', 'mknodes', name)
      return `/dev/mapper/${name}`
    }

    it('knows that none is in use', () => {
      for (const { address } of all) assert.deepEqual(usesOf(address), [])
    })

    it('sees a mounted file system, and one that was hidden from the mount table', function () {
      const disk = writable()
      if (!disk || !format(disk)) return skip(this, 'this topology has no disk that keeps what is written')
      mount(`/dev/${disk.name}`)
      assert.deepEqual(usesOf(disk.address), [`blocks mount: ${disk.name} is mounted at ${POINT}`])
      const file = openSync(`${POINT}/held`, 'w')
      run('umount', '--lazy', POINT)
      cleanups.pop()
      const hidden = usesOf(disk.address)
      closeSync(file)
      assert.deepEqual(hidden, [
        `blocks mount: ${disk.name} holds a live ext4 that no mount table in sight shows`,
      ])
    })

    it('sees a file system that only another mount namespace has', async function () {
      const disk = writable()
      if (!disk || !format(disk)) return skip(this, 'this topology has no disk that keeps what is written')
      const script = `mount /dev/${disk.name} ${POINT} && echo mounted && exec sleep 1000`
      const child = spawn('unshare', ['--mount', 'sh', '-c', script], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      try {
        await new Promise<void>((resolve, reject) => {
          child.stdout.once('data', () => resolve())
          child.once('exit', () => reject(new Error('it did not mount')))
        })
        await until('sleep', () => (commandOf(child.pid) === 'sleep' ? true : undefined))
        assert.deepEqual(usesOf(disk.address), [
          `blocks mount: ${disk.name} is mounted at ${POINT} in the mount namespace of sleep (pid ${child.pid})`,
        ])
      } finally {
        child.kill('SIGKILL')
        await new Promise((resolve) => child.once('close', resolve))
        await until('the end of the mount', () =>
          existsSync(`/sys/fs/ext4/${disk.name}`) ? undefined : true,
        )
      }
    })

    it('sees a mounted volume of LVM, and one that is only set up', function () {
      const disk = writable()
      if (!disk || !has('dm-mod') || !has('ext4'))
        return skip(this, 'this topology or kernel lacks a disk or a module that it needs')
      const node = volume('vg0-root', 'LVM-lab0', disk.name)
      assert.deepEqual(usesOf(disk.address), [`blocks holder: ${disk.name} is held by vg0-root (LVM volume)`])
      run('mkfs.ext4', '-q', '-F', node)
      mount(node)
      assert.deepEqual(usesOf(disk.address), [`blocks mount: ${disk.name} → vg0-root is mounted at ${POINT}`])
    })

    function swap(device: string): void {
      run('mkswap', device)
      run('swapon', device)
      cleanups.push(() => run('swapoff', device))
    }

    it('sees swap on a disk', function () {
      const disk = writable()
      if (!disk) return skip(this, 'this topology has no disk that keeps what is written')
      swap(`/dev/${disk.name}`)
      assert.deepEqual(usesOf(disk.address), [`blocks swap: ${disk.name} is swap space in use`])
    })

    it('sees swap on a volume', function () {
      const disk = writable()
      if (!disk || !has('dm-mod'))
        return skip(this, 'this topology or kernel lacks a disk or a module that it needs')
      swap(volume('vg0-swap', 'LVM-lab1', disk.name))
      assert.deepEqual(usesOf(disk.address), [`blocks swap: ${disk.name} → vg0-swap is swap space in use`])
    })

    it('sees swap in a file', function () {
      const disk = writable()
      if (!disk || !format(disk)) return skip(this, 'this topology has no disk that keeps what is written')
      mount(`/dev/${disk.name}`)
      writeFileSync(`${POINT}/a swap`, Buffer.alloc(1 << 20), { mode: 0o600 })
      swap(`${POINT}/a swap`)
      assert.deepEqual(usesOf(disk.address), [
        `blocks mount: ${disk.name} is mounted at ${POINT}`,
        `blocks swap: ${disk.name} carries the swap file ${POINT}/a swap`,
      ])
    })

    it('sees a RAID against each of its members', function () {
      const [one, two] = all
      if (!one || !two || !has('md-mod') || !has('raid1'))
        return skip(this, 'this topology or kernel lacks a device or a module that it needs')
      // What mdadm does, without mdadm.
      writeFileSync('/sys/module/md_mod/parameters/new_array', 'md_lab')
      const md = '/sys/block/md_lab/md'
      cleanups.push(() => writeFileSync(`${md}/array_state`, 'clear'))
      writeFileSync(`${md}/metadata_version`, 'none')
      writeFileSync(`${md}/level`, 'raid1')
      writeFileSync(`${md}/raid_disks`, '2')
      writeFileSync(`${md}/component_size`, '32768')
      for (const [slot, { name }] of [one, two].entries()) {
        writeFileSync(`${md}/new_dev`, readFileSync(`/sys/block/${name}/dev`, 'utf8').trim())
        writeFileSync(`${md}/dev-${name}/slot`, String(slot))
      }
      writeFileSync(`${md}/array_state`, 'active')
      for (const { address, name } of [one, two]) {
        assert.deepEqual(usesOf(address), [`blocks holder: ${name} is held by md_lab (raid1)`])
      }
    })

    it('sees a loop device over a disk', function () {
      if (!has('loop')) return skip(this, 'this topology or kernel lacks a device or a module that it needs')
      const disk = first()
      const device = run('losetup', '--find', '--show', `/dev/${disk.name}`).toString().trim()
      cleanups.push(() => run('losetup', '--detach', device))
      const name = device.slice('/dev/'.length)
      assert.deepEqual(usesOf(disk.address), [`blocks holder: ${disk.name} is held by ${name} (loop device)`])
    })

    it('sees the process that has a disk open', () => {
      const disk = first()
      const file = openSync(`/dev/${disk.name}`, 'r')
      cleanups.push(() => closeSync(file))
      const command = commandOf(process.pid)
      assert.deepEqual(usesOf(disk.address), [
        `blocks holder: ${disk.name} is open in ${command} (pid ${process.pid})`,
      ])
    })
  })

  describe('of network cards', () => {
    let card: PciDevice
    let name: string

    before(async function () {
      const found = seen.devices.find((device) => {
        if (device.class !== 0x020000 || device.vendor !== 0x8086) return false
        put(device.address, 'host')
        return ['e1000e', 'igb'].includes(driverOf(device.address) ?? '')
      })
      if (!found) return skip(this, 'this topology or kernel lacks a device or a module that it needs')
      card = found
      name = await until('an interface', () => namesIn(`/sys/bus/pci/devices/${found.address}/net`)[0])
    })

    const ip = (...args: string[]) => run('ip', ...args)

    afterEach(() => {
      ip('addr', 'flush', 'dev', name)
      ip('link', 'set', name, 'down')
      assert.deepEqual(usesOf(card.address), [])
    })

    it('warns of one that is up without an address', () => {
      writeFileSync(`/proc/sys/net/ipv6/conf/${name}/disable_ipv6`, '1')
      ip('link', 'set', name, 'up')
      assert.deepEqual(usesOf(card.address), [`warns network: ${name} is up, without an address`])
    })

    it('refuses one whose interface is in another network namespace', async () => {
      const child = spawn('unshare', ['-n', 'sleep', '1000'], { stdio: 'ignore' })
      const own = readlinkSync('/proc/self/ns/net')
      const pid = String(child.pid)
      await until('a namespace', () => (readlinkSync(`/proc/${pid}/ns/net`) === own ? undefined : true))
      ip('link', 'set', name, 'netns', pid)
      const uses = usesOf(card.address)
      run('nsenter', '-t', pid, '-n', 'ip', 'link', 'set', name, 'netns', String(process.pid))
      child.kill('SIGKILL')
      assert.match(uses.join(), /^blocks other: it has a network interface in another network namespace/)
    })

    it('refuses one with an address, and with the default route', () => {
      ip('link', 'set', name, 'up')
      ip('addr', 'add', '192.168.7.2/24', 'dev', name)
      const address = `blocks network: ${name} is up with an address in 192.168.7.0/24`
      assert.deepEqual(usesOf(card.address), [address])
      ip('route', 'add', 'default', 'via', '192.168.7.1')
      assert.deepEqual(usesOf(card.address), [`${address} and carries the default route`])
    })

    it('refuses one that carries the SSH connection of the caller', () => {
      ip('link', 'set', name, 'up')
      ip('addr', 'add', '192.168.7.2/24', 'dev', name)
      const script = `const { Host, assessUses } = await import('vfio')
        console.log(JSON.stringify(assessUses(new Host().snapshot(), process.argv[1])))`
      const env = { ...process.env, SSH_CONNECTION: '192.168.7.9 50000 192.168.7.2 22' }
      // As under sudo: the variable is the parent's alone.
      const inner = `env -u SSH_CONNECTION "$0" --input-type=module -e "$1" ${card.address}; true`
      const { stdout } = spawnSync('sh', ['-c', inner, process.execPath, script], { env, encoding: 'utf8' })
      assert.deepEqual(lines(JSON.parse(stdout)), [
        `blocks network: ${name} is up with an address in 192.168.7.0/24 and carries your SSH connection`,
      ])
    })

    it('refuses one whose VLAN has an IPv6 address', function () {
      if (!has('8021q') || !existsSync('/proc/net/if_inet6'))
        return skip(this, 'this topology or kernel lacks a device or a module that it needs')
      const vlan = `${name}.7`
      ip('link', 'set', name, 'up')
      ip('link', 'add', 'link', name, 'name', vlan, 'type', 'vlan', 'id', '7')
      try {
        ip('link', 'set', vlan, 'up')
        ip('addr', 'add', 'fd00::2/64', 'dev', vlan, 'nodad')
        const [use] = usesOf(card.address)
        assert.equal(use, `blocks network: ${name} → ${vlan} is up with the address fd00::2`)
      } finally {
        ip('link', 'delete', vlan)
      }
    })
  })

  describe('through VFIO', () => {
    /** Endpoints alone in their groups, so that nothing but themselves is moved. */
    const candidates = () => {
      const now = host.snapshot()
      return now.devices.filter(({ address, group, headerType }) => {
        if (group === null || headerType !== 'normal') return false
        return now.group(group).members.length === 1 && assessUses(now, address).length === 0
      })
    }

    for (const { name, backend } of modes)
      it(`says nothing of a device that is bound and closed, and what is so when it is open by ${name}`, async () => {
        const kinds = new Map(candidates().map((device) => [`${device.vendor}:${device.device}`, device]))
        let opened = 0
        for (const { address } of kinds.values()) {
          put(address, 'vfio-pci')
          if (driverOf(address) !== 'vfio-pci') continue
          assert.deepEqual(usesOf(address), [], `${address} is bound and closed`)
          const open = await openDevice(address, { backend })
          const seenOpen = host.snapshot()
          assert.deepEqual(seenOpen.use.enabled, [address], `${address} is enabled while it is open`)
          const command = commandOf(process.pid)
          assert.deepEqual(lines(assessUses(seenOpen, address)), [
            `blocks vfio: ${nodeOf(seenOpen, address, backend).what} is open in ${command} (pid ${process.pid})`,
          ])
          await open[Symbol.asyncDispose]()
          assert.deepEqual(usesOf(address), [], `${address} is closed again`)
          put(address, 'host')
          opened++
        }
        assert.ok(opened > 0)
      })

    it('is not released where the node that tells whether it is open is out of sight, or another one', async () => {
      const [device] = candidates()
      assert(device && device.group !== null)
      const { address, group } = device
      const journal = '/run/lab/views'
      const assignment = await assign(planAssignment(host.snapshot(), [address]), { journal })
      const program = `
        import { release } from 'vfio'
        const [, address, journal] = process.argv
        try {
          await release([address], { journal })
          console.log('released')
        } catch (error) {
          console.log(error.code, error.message)
        }`
      const releaseWhere = (view: string) =>
        execFileSync(
          'unshare',
          [
            '-m',
            'sh',
            '-c',
            `${view}; exec "$0" "$@"`,
            process.execPath,
            '--input-type=module',
            '-e',
            program,
            address,
            journal,
          ],
          { cwd: ROOT, encoding: 'utf8' },
        )
      const empty = 'mount -t tmpfs none /dev/vfio'
      const refusal = new RegExp(`^ERR_VFIO_BAD_NODE .*/dev/vfio/${group} is`)
      assert.match(releaseWhere(empty), refusal)
      assert.match(releaseWhere(`${empty}; echo > /dev/vfio/${group}`), refusal)
      assert.match(releaseWhere(`${empty}; mknod /dev/vfio/${group} c 1 3`), refusal)
      assert.equal(driverOf(address), 'vfio-pci')
      await assignment.release()
      assert.notEqual(driverOf(address), 'vfio-pci')
    })

    for (const { name, backend } of modes)
      it(`names another process that has the node open that is needed by ${name}, and leaves the verdict as it is`, async () => {
        const device = candidates().find(({ address }) => put(address, 'vfio-pci') === 'vfio-pci')
        assert(device)
        const { address } = device
        const { path, what } = nodeOf(host.snapshot(), address, backend)
        const file = openSync(path, 'r+')
        // The file is the child's alone: a group opens once, and this process gives it away.
        const child = spawn('sleep', ['1000'], { stdio: ['ignore', 'ignore', file] })
        closeSync(file)
        try {
          await until('sleep', () => (commandOf(child.pid) === 'sleep' ? true : undefined))
          const assessment = assess(host.snapshot(), address)
          assert.deepEqual(lines(assessment.uses), [
            `blocks vfio: ${what} is open in sleep (pid ${child.pid})`,
          ])
          assert.equal(assessment.verdict, 'ready')
        } finally {
          child.kill('SIGKILL')
          await new Promise((resolve) => child.once('close', resolve))
        }
        assert.deepEqual(usesOf(address), [])
        put(address, 'host')
      })
  })
})
