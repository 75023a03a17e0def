import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, statSync } from 'node:fs'
import { release as kernelRelease } from 'node:os'
import { text } from 'node:stream/consumers'
import {
  agreesWithKernel,
  askKernel,
  assess,
  type Backend,
  createMdev,
  DmaBuffer,
  grant,
  Host,
  mdevTypes,
  openDevice,
  openDevices,
  planAssignment,
  recover,
  removeMdev,
  resetDevice,
  revoke,
  status,
  type VfioDevice,
  VfioError,
} from 'vfio'
import { skip } from '../fixtures/skip.js'
import { vfio } from './assign-host.js'
import { modes } from './modes.js'

const SERIAL = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001'
const DISPLAY = 'fff6f017-3417-4ad3-b05e-17ae3e1a4615'
const OTHER = 'a297db4a-f4c2-11e6-90f6-d3b88d6c9525'

const look = () => new Host().snapshot()
const isThere = (uuid: string) => existsSync(`/sys/bus/mdev/devices/${uuid}`)
const isCode =
  (code: string, pattern = /./) =>
  (error: unknown) =>
    error instanceof VfioError && error.code === code && pattern.test(error.message)

/** Registers of a 16550, and what is written to them here. */
const UART = { data: 0, interrupts: 1, fifo: 2, line: 5 }
const RECEIVED = 1
const FIFO_ON = 1

/** What is sent comes back, and an interrupt tells of it. */
async function loopBack(device: VfioDevice): Promise<void> {
  const port = device.region('bar0')
  const irq = device.irq('intx')
  irq.enable()
  port.write8(UART.fifo, FIFO_ON)
  port.write8(UART.interrupts, RECEIVED)
  for (const byte of [0x41, 0x0a]) {
    port.write8(UART.data, byte)
    for await (const { count } of irq.events()) {
      assert(count >= 1)
      break
    }
    assert.equal(port.read8(UART.line) & RECEIVED, RECEIVED)
    assert.equal(port.read8(UART.data), byte)
    assert.equal(port.read8(UART.line) & RECEIVED, 0)
    irq.unmask()
  }
  irq.disable()
}

function itIsOpenedByQemu(name: string, backend: Backend): void {
  it(`are opened by QEMU with the arguments that vfio export printed, by ${name}`, async () => {
    const iommufd = backend === 'iommufd' ? ['--iommufd'] : []
    const args = [...iommufd, '--guest-address', '00:06.0', SERIAL, DISPLAY]
    const { stdout: exported, stderr } = vfio('export', 'qemu', ...args)
    assert.match(exported, new RegExp(`vfio-pci,sysfsdev=/sys/bus/mdev/devices/${SERIAL}`), stderr)
    const words = `exec qemu-system-x86_64 -M q35 -nodefaults -display none -S -accel tcg -m 64 -monitor stdio ${exported}`
    const qemu = spawn('/bin/sh', ['-c', words], { stdio: ['pipe', 'pipe', 'inherit'] })
    const ended = once(qemu, 'close')
    qemu.stdin.end('info pci\nquit\n')
    const said = await text(qemu.stdout)
    assert.deepEqual(await ended, [0, null], said)
    assert.match(said, /PCI device 4348:3253/)
    assert.match(said, /PCI device 1b36:000f/)
  })
}

describe(`mediated devices on ${kernelRelease()}`, function () {
  this.timeout(300_000)

  before(async function () {
    if (!existsSync('/sys/class/mdev_bus/mtty')) skip(this, 'this kernel has no sample of a mediated device')
    await createMdev(look(), 'mtty-1', 'mtty', { uuid: SERIAL })
    const { status: code, stdout, stderr } = vfio('mdev', 'create', 'mdpy-vga', 'mdpy', '--uuid', DISPLAY)
    assert.equal(code, 0, stderr)
    assert.match(stdout, new RegExp(`^${DISPLAY} is a mdpy-vga of mdpy, on mdpy, group \\d+\n$`))
  })

  after(async () => {
    for (const { uuid } of look().mediated) await removeMdev(look(), uuid)
  })

  it('are seen with their parents, types, groups and nodes', () => {
    const seen = look()
    const serial = seen.mediatedDevice(SERIAL)
    assert.deepEqual(
      [serial.parent, serial.function, serial.type, serial.deviceApi, serial.driver],
      ['mtty', null, 'mtty-1', 'vfio-pci', 'mtty'],
    )
    assert(serial.group !== null && existsSync(`/dev/vfio/${serial.group}`))
    assert(serial.vfioDevice !== null && existsSync(`/dev/vfio/devices/${serial.vfioDevice}`))
    const group = seen.group(serial.group)
    assert.deepEqual([group.noIommu, group.emulated, group.members], [false, true, []])
    const types = mdevTypes(seen).filter(({ parent }) => parent === 'mtty')
    assert.deepEqual(
      types.map(({ id, devices }) => [id, devices]),
      [
        ['mtty-1', [SERIAL]],
        ['mtty-2', []],
      ],
    )
    assert.match(vfio('list').stdout, new RegExp(`${SERIAL} ready +mtty-1`))
  })

  it('are ready, with nothing to bind, and nothing else is changed by them', () => {
    const { status: code, stdout } = vfio('check', SERIAL)
    assert.equal(code, 0, stdout)
    assert.equal(vfio('bind', SERIAL).stdout, `${SERIAL}: bound to VFIO already, nothing was changed\n`)
    assert.deepEqual(planAssignment(look(), [SERIAL, DISPLAY]).steps, [])
  })

  for (const { name, backend } of modes) {
    it(`are as was predicted by ${name}`, async () => {
      const seen = look()
      for (const uuid of [SERIAL, DISPLAY]) {
        const kernel = await askKernel(seen, uuid, { backend })
        assert.equal(agreesWithKernel({ ...assess(seen, uuid), kernel }), true, JSON.stringify(kernel))
        assert.equal(typeof kernel.hotReset, 'string')
      }
    })

    it(`bring a serial port with its interrupt by ${name}`, async () => {
      const opened = await openDevice(SERIAL, { backend })
      try {
        const { device } = opened
        assert.equal(device.address, SERIAL)
        assert.equal(device.info().pci, true)
        assert.deepEqual([device.config.vendor, device.config.device], [0x4348, 0x3253])
        assert.equal(device.regionInfo('bar0').size, 8n)
        assert.equal(device.irqInfo('msi').count, 1)
        await loopBack(device)
        assert.throws(() => device.hotResetInfo(), isCode('ENOTTY'))
      } finally {
        await opened.close()
      }
    })

    it(`bring memory of a display, in one space with others, by ${name}`, async () => {
      const opened = await openDevices([DISPLAY, SERIAL], { backend })
      try {
        const [display, serial] = opened.devices
        assert(display && serial)
        const pixels = display.region(16)
        assert.equal(display.regionInfo(16).mmap, true)
        using mapping = pixels.map()
        new Uint32Array(mapping.buffer)[3] = 0x00c0ffee
        assert.equal(display.region('bar0').read32(12), 0x00c0ffee)
        const buffer = DmaBuffer.allocate(65536)
        const mapped = await opened.dma.map(buffer)
        await mapped.unmap()
        buffer.close()
        await loopBack(serial)
      } finally {
        await opened.close()
      }
    })

    it(`stay while they are open by ${name}, whenever that was`, async () => {
      const before = look()
      const opened = await openDevice(SERIAL, { backend })
      try {
        await assert.rejects(
          removeMdev(look(), SERIAL),
          isCode('ERR_VFIO_IN_USE', new RegExp(`pid ${process.pid}\\)`)),
        )
        await assert.rejects(removeMdev(before, SERIAL), isCode('ERR_VFIO_IN_USE', /close it there/))
      } finally {
        await opened.close()
      }
      assert(isThere(SERIAL))
    })
  }

  it('are handed to another user by their own nodes', async () => {
    const { nodes } = await grant(look(), SERIAL, { user: 'nobody' })
    const { group, vfioDevice } = look().mediatedDevice(SERIAL)
    assert.deepEqual(
      nodes.map(({ path }) => path),
      [`/dev/vfio/${group}`, `/dev/vfio/devices/${vfioDevice}`, '/dev/iommu'],
    )
    assert.notEqual(statSync(`/dev/vfio/${group}`).uid, 0)
    assert.equal((await revoke(SERIAL)).restored.length, 3)
    assert.equal(statSync(`/dev/vfio/${group}`).uid, 0)
  })

  it('are reset only where their driver can', async () => {
    await assert.rejects(resetDevice(look(), SERIAL), isCode('ERR_VFIO_NO_RESET', /its driver has no way/))
    await assert.rejects(
      resetDevice(look(), SERIAL, { hot: true }),
      isCode('ERR_VFIO_NO_RESET', /no PCI function/),
    )
  })

  for (const { name, backend } of modes) itIsOpenedByQemu(name, backend)

  for (const { name, backend } of modes) {
    it(`are a command's for as long as it runs, by ${name}`, () => {
      const words = ['--user', 'nobody', '--backend', backend, SERIAL]
      const script = 'echo $VFIO_ADDRESSES $LISTEN_FDNAMES; id -un; readlink /proc/$$/fd/4 || true'
      const { status: code, stdout, stderr } = vfio('run', ...words, '--', '/bin/sh', '-c', script)
      assert.equal(code, 0, stderr)
      const { vfioDevice, group } = look().mediatedDevice(SERIAL)
      const given =
        backend === 'iommufd' ? [`iommufd:vfio-${SERIAL}`, `/dev/vfio/devices/${vfioDevice}`] : ['', '']
      assert.deepEqual(
        stdout.trim().split('\n'),
        [`${SERIAL} ${given[0]}`.trim(), 'nobody', given[1]].filter(Boolean),
      )
      assert.equal(statSync(`/dev/vfio/${group}`).uid, 0)
      assert(isThere(SERIAL))
    })
  }

  it('are refused while open, and said so, by the command', async () => {
    await using _opened = await openDevice(SERIAL)
    const { status: code, stderr } = vfio('mdev', 'remove', SERIAL)
    assert.equal(code, 1)
    assert.match(stderr, /^vfio: .* is open in .*\n$/)
  })

  it('are refused as the kernel would, in a sentence', async () => {
    await assert.rejects(createMdev(look(), 'mtty-1', 'mtty', { uuid: SERIAL }), isCode('ERR_VFIO_IN_USE'))
    await assert.rejects(
      createMdev(look(), 'mtty-3', 'mtty'),
      isCode('ERR_VFIO_BAD_ARGUMENT', /did you mean mtty-1/),
    )
    await assert.rejects(removeMdev(look(), OTHER), isCode('ERR_VFIO_NO_DEVICE'))
  })

  it('come until there is no room, and the free instances say so', async () => {
    const made: string[] = []
    for (;;) {
      const free = mdevTypes(look()).find(({ id }) => id === 'mdpy-hd')?.available ?? 0
      if (free === 0) break
      made.push((await createMdev(look(), 'mdpy-hd', 'mdpy')).uuid)
    }
    assert(made.length > 1)
    await assert.rejects(createMdev(look(), 'mdpy-hd', 'mdpy'), isCode('ERR_VFIO_NO_MDEV', /no room/))
    for (const uuid of made) await removeMdev(look(), uuid)
  })

  /** A program that is killed once it has done this. */
  function killedAfter(step: 'create' | 'remove', change: string): void {
    const program = `
      import { createMdev, Host, removeMdev } from 'vfio'
      const onChange = (change) => change.startsWith('${change}') && process.kill(process.pid, 'SIGKILL')
      const seen = new Host().snapshot()
      await ('${step}' === 'create'
        ? createMdev(seen, 'mtty-1', 'mtty', { uuid: '${OTHER}', onChange })
        : removeMdev(seen, '${OTHER}', { onChange }))`
    const { signal, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
      encoding: 'utf8',
    })
    assert.equal(signal, 'SIGKILL', stderr)
  }

  for (const [step, change, before, afterwards] of [
    ['create', 'recorded', false, false],
    ['create', 'wrote', true, false],
    ['remove', 'recorded', true, true],
    ['remove', 'wrote', false, false],
  ] as const) {
    it(`are in order again where a program was killed that had ${change} what it was to ${step}`, async () => {
      if (step === 'remove') await createMdev(look(), 'mtty-1', 'mtty', { uuid: OTHER })
      killedAfter(step, change)
      assert.equal(isThere(OTHER), before)
      assert.deepEqual(
        (await status()).unfinished?.map((left) => [left.address, left.step]),
        [[OTHER, `mdev-${step}`]],
      )
      assert.deepEqual((await recover()).recovered, [OTHER])
      assert.equal(isThere(OTHER), afterwards)
      assert.equal((await status()).unfinished, undefined)
      if (afterwards) await removeMdev(look(), OTHER)
    })
  }
})
