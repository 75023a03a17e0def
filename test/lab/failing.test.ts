import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { release } from 'node:os'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { openDevice } from 'vfio'
import { put } from './binding.js'
import { Heard } from './heard.js'
import { Monitor } from './monitor.js'
import { refused } from './spare.js'

const program = fileURLToPath(new URL('failing-program.js', import.meta.url))

async function addressOf(monitor: Monitor, id: string): Promise<string> {
  const address = (await monitor.addresses()).get(id)
  assert(address, `the topology has no ${id}`)
  return address
}

/** Starts the program on a device; `line()` gives its next line, `working()` the register that its first one tells. */
function start(address: string) {
  const child = spawn(process.execPath, [program, address], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(child, 'close')
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const line = async () => String((await lines.next()).value)
  const working = async () => {
    const first = await line()
    const [, register] = /^working (\d+)$/.exec(first) ?? []
    assert(register, first)
    return register
  }
  return { ended, line, working }
}

describe(`a device that fails on ${release()}`, function () {
  this.timeout(120_000)

  let monitor: Monitor
  before(async () => {
    monitor = await Monitor.open()
  })
  after(() => monitor[Symbol.asyncDispose]())

  it('because it is torn out no longer reads as before, and is let go by the program that is told', async () => {
    const [port, address] = [await addressOf(monitor, 'rp_torn'), await addressOf(monitor, 'torn')]
    put(address, 'vfio-pci')
    const running = start(address)
    const register = await running.working()
    const removed = monitor.event('DEVICE_DELETED', ({ device }) => device === 'torn')
    // Slot control: power off, which is when QEMU takes the device out, without an interrupt; then as it was, with one.
    execFileSync('setpci', ['-s', port, 'CAP_EXP+18.w=0700:0720'])
    execFileSync('setpci', ['-s', port, 'CAP_EXP+18.w=0120:0720'])
    await removed
    assert.equal(await running.line(), 'asked')
    const [, after] = /^reads (\d+) \d+$/.exec(await running.line()) ?? []
    assert.notEqual(after, register)
    assert.equal(await running.line(), 'closed')
    assert.deepEqual(await running.ended, [0, null])
    // Takes the lock that the kernel holds until it has taken the device out of its tree.
    writeFileSync('/sys/bus/pci/rescan', '1')
    await refused(openDevice(address), 'ERR_VFIO_NO_DEVICE')
  })

  it('says so by its error interrupt, and stays', async () => {
    const address = await addressOf(monitor, 'failing')
    put(address, 'vfio-pci')
    await using opened = await openDevice(address)
    const { device } = opened
    device.config.setCommand({ memory: true, busMaster: true })
    const err = device.irq('err')
    const events = err.events()
    err.enable()
    const express = device.config.capability('PCIe')
    assert(express)
    // Device control: all four kinds of errors are reported.
    device.config.region.write16(express.offset + 8, 0x000f)
    using heard = new Heard([address])
    assert.match(await monitor.human('pcie_aer_inject_error failing COMP_TIME'), /^OK/)
    const { value } = await events.next()
    assert.deepEqual(value, { vector: 0, count: 1 })
    await heard.next('error')
    await heard.next('recovered')
    assert.equal(device.config.vendor, 0x1af4)
  })
})
