import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { writeHost } from '../fixtures/host.js'
import { bytes, region } from '../native/bytes.js'
import { type FakeAnswer, OPENS, runSource } from '../native/fake.js'
import {
  DEVICE,
  fixture,
  look,
  manifest,
  nodeLines,
  nodeProgram,
  PATIENCE,
  program,
  run,
  scratchDirectory,
  sees,
  tool,
  user,
} from './support.js'

const PROCESSOR = process.arch === 'arm64' ? { bun: 'aarch64', deno: 'arm64' } : { bun: 'x64', deno: 'x64' }

/** The programs that run JavaScript, by name, with what stands before a file. */
const RUNTIMES: Readonly<Record<string, () => readonly string[]>> = {
  [`Node ${process.versions.node.split('.')[0]}, which runs the tests`]: () => [process.execPath],
  ...Object.fromEntries(
    nodeLines.map((line) => [
      `Node ${line}`,
      () => {
        const program = nodeProgram(line)
        assert(program, `Node ${line} could not be fetched`)
        return [program]
      },
    ]),
  ),
  Bun: () => [tool(`@oven/bun-linux-${PROCESSOR.bun}/bin/bun`)],
  Deno: () => [tool(`@deno/linux-${PROCESSOR.deno}-glibc/deno`), 'run', '--quiet', '--allow-all'],
}

/** Deno keeps what it compiled in the user's home. */
const deno = () => ({ DENO_DIR: scratchDirectory('deno'), DENO_NO_UPDATE_CHECK: '1' })

const KERNEL: readonly FakeAnswer[] = [
  OPENS,
  { call: 'regionInfo', bytes: region(32, 3, 0, 0x4000n, 2n ** 40n).done() },
  { call: 'irqInfo', bytes: bytes().u32(16, 1, 0, 4).done() },
]

/** Registers, memory, interrupts and the way back, of a device of the fake kernel. */
const DRIVE = `
const opened = await vfio.openDevice(input.device, { seen: new vfio.Host(input.trees).snapshot() })
const { device, container } = opened
fs.truncateSync(memoryOf(input.device), 2 ** 40 + 0x4000)
device.region('bar0').write32(16, 0x12345678)
assert.equal(device.region('bar0').read32(16), 0x12345678)
const buffer = vfio.DmaBuffer.allocate(4096)
const mapping = await container.dma.map(buffer)
assert.equal(container.dma.mappings.length, 1)
const irq = device.irq('msix')
irq.enable({ vectors: [0] })
if (input.isNode) {
  const fd = Number(asked().at(-1).split(' fds ')[1])
  const events = irq.events()
  const first = events.next()
  fs.writeSync(fd, new BigUint64Array([3n]))
  assert.deepEqual((await first).value, { vector: 0, count: 3 })
  await events.return()
} else {
  assert.equal((await failure(() => irq.events())).code, 'ERR_VFIO_RUNTIME')
  assert.equal((await failure(() => irq.onEvent(() => {}))).code, 'ERR_VFIO_RUNTIME')
}
irq.disable()
const eventfd = vfio.EventFd.create()
irq.enable({ eventfds: new Map([[0, eventfd]]) })
await device.reset()
await mapping[Symbol.asyncDispose]()
await opened.close()
console.log('closed')
`

const OTHER = '0000:59:00.1'

/** An assignment whose every write goes to files, so that it fails where the driver should be seen. */
const CHANGE = `
import { assign, Host, planAssignment } from 'vfio'
const { trees, journal, address } = JSON.parse(process.env.INPUT)
const plan = planAssignment(new Host(trees).snapshot(), [address], { reset: 'none' })
await assign(plan, { journal }).then(() => console.log('done'), ({ code }) => console.log(code))
`

describe('the installed package', function () {
  this.timeout(PATIENCE)

  before(() => {
    writeFileSync(join(user(), 'look.mjs'), program())
    writeFileSync(
      join(user(), 'look.cjs'),
      program()
        .replace(/^import (.*) from (.*)$/gm, 'const $1 = require($2)')
        .replaceAll(' as ', ': '),
    )
  })

  for (const [name, command] of Object.entries(RUNTIMES)) {
    it(`runs in ${name}, imported and required, and so does its command`, () => {
      for (const file of ['look.mjs', 'look.cjs']) sees(look(user(), [...command(), file], deno()))
      const path = join(user(), 'node_modules/vfio/bin/vfio.js')
      const version = run(user(), [...command(), path, '--version'], deno())
      assert.equal(version.stdout.trim(), manifest.version, version.stderr)
      const listed = run(user(), [...command(), path, 'list', '--sysfs', fixture().sysfs], deno())
      assert.match(listed.stdout, /^GROUP ADDRESS .*\n +7 59:00\.0 /, listed.stderr)
      assert.equal(listed.status, 0)
    })
  }

  for (const [name, command] of Object.entries(RUNTIMES)) {
    const isNode = name.startsWith('Node ')
    it(`drives a device in ${name}${isNode ? '' : ', and says that it delivers no interrupts'}`, async () => {
      const file = join(user(), 'drive.mjs')
      const { code, stderr, stdout } = await runSource(DRIVE, KERNEL, {
        input: { trees: fixture(), device: DEVICE, isNode },
        environment: deno(),
        command: (source) => {
          writeFileSync(file, source)
          return [...command(), file]
        },
      })
      assert.equal(stdout, 'closed\n', stderr)
      assert.equal(code, 0, stderr)
    })
  }

  for (const [name, command] of Object.entries(RUNTIMES)) {
    const answer =
      name === 'Bun' ? 'says that it cannot change a host, and has changed nothing' : 'changes a host'
    it(`${answer} in ${name}`, () => {
      const trees = writeHost(scratchDirectory(`changed by ${name}`), {
        devices: [
          { address: DEVICE, driver: 'vfio-pci', group: 7 },
          { address: OTHER, group: 8 },
        ],
      })
      const journal = join(scratchDirectory(`journal of ${name}`), 'vfio')
      writeFileSync(join(user(), 'change.mjs'), CHANGE)
      const input = { INPUT: JSON.stringify({ trees, journal, address: OTHER }) }
      const { stdout, stderr, status } = run(user(), [...command(), 'change.mjs'], { ...deno(), ...input })
      // Nobody binds anything in files.
      const wanted = name === 'Bun' ? 'ERR_VFIO_RUNTIME' : 'ERR_VFIO_NOT_BOUND'
      assert.equal(stdout, `${wanted}\n`, stderr)
      assert.equal(status, 0)
      const probed = readFileSync(join(trees.sysfs, 'bus/pci/drivers_probe'), 'utf8')
      assert.equal(probed, name === 'Bun' ? '' : `${OTHER}\n`)
      if (name === 'Bun') assert(!existsSync(journal))
    })
  }

  it('runs on each line of Node that it promises', () => {
    const oldest = /^>=(\d+)/.exec(manifest.engines.node)?.[1]
    const tested = [process.versions.node.split('.')[0], ...nodeLines]
    // Every second number is a line that is kept up for long.
    for (let line = Number(oldest); line <= Number(nodeLines.at(-1)); line += 2) {
      assert(tested.includes(String(line)), `Node ${line}`)
    }
  })
})
