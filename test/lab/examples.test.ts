import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  watch,
} from 'node:fs'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { Host, type PciDevice } from 'vfio'
import { patternBytes } from '../../scripts/lab/pattern.js'
import { skip } from '../fixtures/skip.js'
import { hostState } from './assign-host.js'
import { driverOf, load, put } from './binding.js'
import { overModes } from './modes.js'

const host = new Host()
const DEVICES = '/sys/bus/pci/devices'
const NVME_CLASS = 0x010802
/** By which numbers the topology's controllers begin; the kernel makes its disks in any order. */
const FIRST_NAMESPACES: ReadonlySet<string> = new Set(['1', '3'])

type Name = 'edu' | 'nvme'
function start(command: string, args: readonly string[]) {
  // In a process group of its own, which a terminal's Ctrl-C goes to as a whole.
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true })
  return {
    child,
    errors: text(child.stderr),
    ended: once(child, 'exit') as Promise<[number | null, string | null]>,
  }
}
type Running = ReturnType<typeof start>

async function outcome({ child, errors, ended }: Running) {
  const chunks: Buffer[] = []
  for await (const chunk of child.stdout) chunks.push(chunk)
  const [status] = await ended
  return { status, output: Buffer.concat(chunks), errors: await errors }
}

/** What it says on standard output, where all goes well. */
async function succeed(running: Running): Promise<Buffer> {
  const { status, output, errors } = await outcome(running)
  assert.equal(status, 0, errors)
  assert.equal(errors, '')
  return output
}

async function refuse(running: Running, wanted: number, sentence: RegExp): Promise<void> {
  const { status, output, errors } = await outcome(running)
  assert.match(errors, sentence)
  assert.match(errors, /^[^\n]+\n$/, 'one line')
  assert.equal(status, wanted, errors)
  assert.equal(output.length, 0)
}

const control = (child: ChildProcess, signal: NodeJS.Signals) => process.kill(-(child.pid ?? 0), signal)

/** The disk that the kernel's own driver makes of a controller's first namespace; waits for it to come. */
async function blockDevice(address: string): Promise<string> {
  const nodes = watch('/dev')
  try {
    for (;;) {
      // A path among several to one disk is called nvme0c0n1.
      const [controller = ''] = listed(`${DEVICES}/${address}/nvme`)
      const below = `${DEVICES}/${address}/nvme/${controller}`
      const name = listed(below).find(
        (entry) =>
          /^nvme\d+(c\d+)?n\d+$/.test(entry) && FIRST_NAMESPACES.has(namespaceOf(`${below}/${entry}`)),
      )
      const node = `/dev/${name?.replace(/c\d+/, '')}`
      if (name !== undefined && existsSync(node)) return node
      await once(nodes, 'change')
    }
  } finally {
    nodes.close()
  }
}
/** A disk is in sight a moment before its attributes are; its node comes after them. */
function namespaceOf(directory: string): string {
  try {
    return readFileSync(`${directory}/nsid`, 'utf8').trim()
  } catch {
    return ''
  }
}
const listed = (directory: string) => (existsSync(directory) ? readdirSync(directory) : [])

function readThroughKernel(node: string, offset: number, length: number): Buffer {
  const disk = openSync(node, 'r')
  try {
    const bytes = Buffer.alloc(length)
    assert.equal(readSync(disk, bytes, 0, length, offset), length)
    return bytes
  } finally {
    closeSync(disk)
  }
}

interface Disk {
  readonly address: string
  readonly blockSize: number
  readonly size: number
}

overModes('drivers in user space', function ({ backend }) {
  this.timeout(300_000)
  /** A program of examples/, as people start it, and without npm and its seconds on an emulated processor. */
  const npm = (name: Name, ...args: readonly string[]) =>
    start('npm', ['run', '-s', `example:${name}`, '--', ...args, '--backend', backend])
  const program = (name: Name, ...args: readonly string[]) => {
    const file = fileURLToPath(new URL(`../../examples/${name}.js`, import.meta.url))
    return start(process.execPath, [file, ...args, '--backend', backend])
  }
  let former: Record<string, string>
  let seen: readonly PciDevice[]
  /** Controllers alone in their group whose disk has the pattern. */
  const disks: Disk[] = []

  const isAlone = ({ group }: PciDevice) =>
    group !== null && seen.filter((other) => other.group === group).length === 1
  const diskOf = (blockSize: number): Disk => {
    const found = disks.find((disk) => disk.blockSize === blockSize)
    assert(found, `the topology has a disk with blocks of ${blockSize} bytes`)
    return found
  }
  const findEdu = (alone: boolean): PciDevice => {
    const found = seen.find(
      (device) => device.vendor === 0x1234 && device.device === 0x11e8 && isAlone(device) === alone,
    )
    assert(found, 'the topology has an edu device')
    return found
  }

  const sharedDisk = (): PciDevice => {
    const shared = seen.find((one) => one.class === NVME_CLASS && !isAlone(one))
    assert(shared, 'the topology has a disk that shares its group')
    return shared
  }

  /** The kernel's driver has the disk, and reads from it what was there from the start. */
  async function assertWhole({ address, size }: Disk): Promise<void> {
    assert.equal(driverOf(address), 'nvme')
    const node = await blockDevice(address)
    for (const [offset, length] of [
      [0, 65_536],
      [Math.floor(size / 2) - 131_072, 262_144],
      [size - 65_536, 65_536],
    ] as const) {
      const bytes = readThroughKernel(node, offset, length)
      assert(bytes.equals(patternBytes(offset, length)), `${node} at ${offset} is as it was`)
    }
  }

  before(async () => {
    load(['nvme', 'ext4'])
    seen = host.snapshot().devices
    for (const device of seen.filter((one) => one.class === NVME_CLASS && isAlone(one))) {
      const node = await blockDevice(device.address)
      const sysfs = `/sys/class/block/${node.slice('/dev/'.length)}`
      const number = (file: string) => Number(readFileSync(`${sysfs}/${file}`, 'utf8'))
      const disk = {
        address: device.address,
        blockSize: number('queue/logical_block_size'),
        size: number('size') * 512,
      }
      disks.push(disk)
      await assertWhole(disk)
    }
    former = hostState()
  })

  /** Whatever a program did and however it ended, the host is as it was. */
  afterEach(async () => {
    assert.deepEqual(hostState(), former)
    for (const disk of disks) await assertWhole(disk)
  })

  it('edu: identification, a factorial with its interrupt, DMA both ways', async () => {
    const said = String(await succeed(npm('edu', findEdu(true).address)))
    assert.match(
      said,
      /^edu device, version 1\.0\nit is alive.*\n10! = 3628800, told by an interrupt\n4096 bytes went/,
    )
  })

  it('NVMe: identifies, writes and reads by polling and by MSI-X, and measures', async () => {
    const { address, size } = diskOf(512)
    const said = String(await succeed(npm('nvme', address, '--verify', '--seconds', '0.5')))
    assert.match(said, /serial lab-disk-512, /)
    assert.match(said, new RegExp(` ${size / 512} blocks of 512 bytes`))
    assert.match(said, /65536 bytes written, read back and restored, completions by polling\n/)
    assert.match(said, /65536 bytes written, read back and restored, completions by MSI-X\n/)
    const rates = [...said.matchAll(/reads of (\d+) KiB, queue depth (\d+), polling: (\d+) per second/g)]
    assert.deepEqual(
      rates.map(([, kibibytes, depth]) => [kibibytes, depth]),
      [
        ['4', '32'],
        ['256', '8'],
      ],
    )
    for (const [, , , rate] of rates) assert(Number(rate) > 0)
    console.log(said.replace(/^/gm, '      ').trimEnd())
  })

  it('NVMe: the same with blocks of 4096 bytes, transfers of two pages, one vector, namespaces 3 and 7', async () => {
    const { address, size } = diskOf(4096)
    const said = String(await succeed(program('nvme', address, '--verify', '--seconds', '0')))
    assert.match(said, new RegExp(`namespaces 3, 7; 3 has ${size / 4096} blocks of 4096 bytes`))
    assert.match(said, /8192 bytes written, .* polling\n.*8192 bytes written, .* MSI-X\n/)
  })

  it('--read: exactly these bytes, wherever they begin and end', async () => {
    for (const [blockSize, offset, length] of [
      [512, 1_000_003, 3_000_017],
      [512, 511, 2],
      [4096, 16_773_119, 16_385],
    ] as const) {
      const { address, size } = diskOf(blockSize)
      assert(offset + length <= size)
      const args = [address, '--read', String(offset), String(length)]
      const bytes = await succeed(program('nvme', ...args))
      assert.equal(bytes.length, length)
      assert(bytes.equals(patternBytes(offset, length)), `${length} bytes from ${offset} on`)
      assert(bytes.equals(readThroughKernel(await blockDevice(address), offset, length)))
    }
  })

  it('--read: most of a disk in bounded memory, until SIGTERM', async () => {
    const { address, size } = diskOf(512)
    const running = program('nvme', address, '--read', '0', String(size))
    const peak = () =>
      Number(/^VmHWM:\s*(\d+) kB/m.exec(readFileSync(`/proc/${running.child.pid}/status`, 'utf8'))?.[1])
    let [at, first, last] = [0, 0, 0]
    for await (const chunk of running.child.stdout as AsyncIterable<Buffer>) {
      assert(chunk.equals(patternBytes(at, chunk.length)), `${chunk.length} bytes from ${at} on`)
      first ||= peak()
      at += chunk.length
      if (at < 0.75 * size || last > 0) continue
      last = peak()
      running.child.kill('SIGTERM')
    }
    assert.deepEqual(await running.ended, [143, null])
    assert(
      at < size && last - first < 24 * 1024,
      `${last - first} KiB more for three quarters of ${size} bytes`,
    )
    assert.equal(await running.errors, '')
  })

  it('Ctrl-C in the middle of a long read gives the device back, also when nobody reads on', async () => {
    const { address, size } = diskOf(512)
    const running = npm('nvme', address, '--read', '12345', String(size - 12_345))
    await once(running.child.stdout, 'readable')
    const bytes = running.child.stdout.read() as Buffer
    assert(bytes.equals(patternBytes(12_345, bytes.length)), 'not a byte but the disk’s own')
    assert.equal(driverOf(address), 'vfio-pci')
    control(running.child, 'SIGINT')
    assert.deepEqual(await running.ended, [130, null])
    running.child.stdout.destroy()
    assert.equal(await running.errors, '')
  })

  it('a reader that goes away ends a read', async () => {
    const { address, size } = diskOf(512)
    const { child, ended, errors } = program('nvme', address, '--read', '0', String(size))
    await once(child.stdout, 'readable')
    child.stdout.destroy()
    assert.deepEqual([...(await ended), await errors], [0, null, ''])
  })

  it('says in one sentence why it cannot', async () => {
    const { address, size } = diskOf(512)
    await refuse(program('nvme'), 2, /^nvme: usage: /)
    await refuse(program('nvme', findEdu(true).address), 2, /is no NVMe controller\n/)
    await refuse(
      program('nvme', address, '--read', String(size - 5), '6'),
      2,
      new RegExp(`not all on the disk, which has ${size} bytes\n`),
    )
  })

  it('refuses a group of which it has only a part, and takes all of it', async () => {
    const { address } = sharedDisk()
    const sentence = new RegExp(`^edu: .*shares its group with ${address},.*--group\n`)
    await refuse(program('edu', findEdu(false).address), 1, sentence)
    const said = String(await succeed(program('nvme', address, '--group', '--seconds', '0')))
    assert.match(said, /serial lab-disk-shared/)
  })

  it('refuses a disk that is mounted', async function () {
    if (!/\text4$/m.test(readFileSync('/proc/filesystems', 'utf8'))) skip(this, 'this kernel has no ext4')
    const { address } = sharedDisk()
    const node = await blockDevice(address)
    execFileSync('mkfs.ext4', ['-q', '-F', node])
    mkdirSync('/tmp/examples-mount', { recursive: true })
    execFileSync('mount', [node, '/tmp/examples-mount'])
    try {
      await refuse(program('nvme', address, '--group'), 1, / is mounted at \/tmp\/examples-mount/)
    } finally {
      execFileSync('umount', ['/tmp/examples-mount'])
    }
  })

  it('uses a device that is bound to vfio-pci already, and leaves it so', async () => {
    const { address } = diskOf(4096)
    put(address, 'vfio-pci')
    const bytes = await succeed(program('nvme', address, '--read', '12345', '67'))
    assert(bytes.equals(patternBytes(12_345, 67)))
    assert.equal(driverOf(address), 'vfio-pci')
    put(address, 'host')
  })
})
