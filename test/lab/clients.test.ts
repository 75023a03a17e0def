import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { release as kernelRelease } from 'node:os'
import { text } from 'node:stream/consumers'
import { Host } from 'vfio'
import { place, spare, vfio } from './assign-host.js'
import { driverOf } from './binding.js'

const host = new Host()

describe(`assignments on ${kernelRelease()} seen by the clients that people have`, function () {
  this.timeout(600_000)
  let device: string
  const run = (program: string, ...args: string[]) =>
    execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })

  before(() => {
    place('host')
    const seen = host.snapshot()
    const found = spare(seen).groups.find(
      ([address = '', ...others]) =>
        others.length === 0 && seen.device(address).class === 0x020000 && driverOf(address) !== null,
    )
    assert(found?.[0], 'the topology has a network card alone in its group')
    device = found[0]
    const { status, stdout, stderr } = vfio('bind', device)
    assert.equal(status, 0, stderr)
    assert.match(stdout, new RegExp(`^${device} is bound to vfio-pci, group \\d+\n$`))
  })

  it('driverctl lists the override', () => {
    assert.match(run('driverctl', 'list-overrides'), new RegExp(`^${device} vfio-pci$`, 'm'))
  })

  it('dpdk-devbind has it among the devices that user space drives', () => {
    const [, ours = '', others = ''] =
      /using DPDK-compatible driver\n=+\n([\s\S]*?)\n\n([\s\S]*)/.exec(run('dpdk-devbind.py', '--status')) ??
      []
    assert.match(ours, new RegExp(`^${device} .*drv=vfio-pci`, 'm'))
    assert.equal(others.includes(device), false)
  })

  it('lspci names the driver', () => {
    assert.match(run('lspci', '-k', '-s', device), /Kernel driver in use: vfio-pci/)
  })

  it('QEMU opens it with the arguments that vfio export printed, and lists it', async () => {
    const { stdout: exported, stderr } = vfio('export', 'qemu', '--guest-address', '00:06.0', device)
    assert.match(exported, new RegExp(`vfio-pci,host=${device}`), stderr)
    const { vendor, device: id } = host.snapshot({ brief: true }).device(device)
    const words = `exec qemu-system-x86_64 -M q35 -nodefaults -display none -S -accel tcg -m 64 -monitor stdio ${exported}`
    const qemu = spawn('/bin/sh', ['-c', words], { stdio: ['pipe', 'pipe', 'inherit'] })
    const ended = once(qemu, 'close')
    qemu.stdin.end('info pci\nquit\n')
    const said = await text(qemu.stdout)
    assert.deepEqual(await ended, [0, null], said)
    const hex = (value: number) => value.toString(16).padStart(4, '0')
    assert.match(said, new RegExp(`PCI device ${hex(vendor)}:${hex(id)}`), said)
  })

  after(() => {
    const { status, stderr } = vfio('release', device)
    assert.equal(status, 0, stderr)
    place('none')
  })
})
