// Drives QEMU's edu device (1234:11e8, docs/specs/edu.rst of QEMU):
// npm run example:edu -- ADDRESS [--group] [--backend auto|iommufd|group]
// The lab has one at 00:04.0: npm run lab -- --topology disks -- npm run -s example:edu -- 00:04.0
import assert from 'node:assert/strict'
import { randomFillSync } from 'node:crypto'
import { parseArgs } from 'node:util'
import { assign, DmaBuffer, Host, type OpenedDevice, openDevice, planAssignment } from 'vfio'
import { backendOf, runProgram, UsageError } from './program.js'

/** Registers, as offsets into BAR 0. */
const ID = 0x00
const LIVENESS = 0x04
const FACTORIAL = 0x08
const STATUS = 0x20
const IRQ_STATUS = 0x24
const IRQ_ACK = 0x64
const DMA_SOURCE = 0x80
const DMA_TARGET = 0x88
const DMA_COUNT = 0x90
const DMA_COMMAND = 0x98

/** In STATUS: an interrupt when the factorial is ready. In IRQ_STATUS: which one it was. */
const RAISE_WHEN_READY = 0x80
const IRQ_FACTORIAL = 0x01
const IRQ_DMA = 0x100

/** In DMA_COMMAND. */
const START = 0x01
const TO_MEMORY = 0x02
const RAISE_WHEN_DONE = 0x04

/** The device's own memory, as its DMA engine addresses it, and how many bits of an address that engine drives. */
const DEVICE_MEMORY = 0x40000
const MEMORY_SIZE = 4096
const ADDRESS_BITS = 28

/** Longer than anything here takes, on an emulated processor too. */
const PATIENCE_MS = 30_000

async function drive({ device, dma }: OpenedDevice, signal: AbortSignal): Promise<void> {
  device.config.setCommand({ memory: true, busMaster: true })
  const registers = device.region('bar0')
  const interrupt = device.irq('msi')
  interrupt.enable()
  const late = AbortSignal.timeout(PATIENCE_MS)
  const interrupts = interrupt.events({ signal: AbortSignal.any([signal, late]) })
  const interrupted = async (by: number) => {
    await interrupts.next().catch((error) => {
      throw late.aborted ? new Error(`the device raised no interrupt within ${PATIENCE_MS / 1000} s`) : error
    })
    const status = registers.read32(IRQ_STATUS)
    registers.write32(IRQ_ACK, status)
    assert.equal(status, by, 'the interrupt has another cause')
  }

  const id = registers.read32(ID)
  assert.equal(id & 0xff, 0xed, 'this is no edu device')
  console.log(`edu device, version ${id >>> 24}.${(id >>> 16) & 0xff}`)

  registers.write32(LIVENESS, 0x12345678)
  assert.equal(registers.read32(LIVENESS), ~0x12345678 >>> 0, 'the device does not invert what it is given')
  console.log('it is alive: it inverts what it is given')

  registers.write32(STATUS, RAISE_WHEN_READY)
  registers.write32(FACTORIAL, 10)
  await interrupted(IRQ_FACTORIAL)
  assert.equal(registers.read32(FACTORIAL), 3_628_800, 'the factorial is wrong')
  console.log('10! = 3628800, told by an interrupt')

  // Two halves: what is sent, and what comes back.
  using buffer = DmaBuffer.allocate(2 * MEMORY_SIZE)
  await using mapping = await dma.map(buffer, { addressBits: ADDRESS_BITS })
  const copy = async (from: bigint, to: bigint, direction: number) => {
    registers.write64(DMA_SOURCE, from, 'single')
    registers.write64(DMA_TARGET, to, 'single')
    registers.write64(DMA_COUNT, BigInt(MEMORY_SIZE), 'single')
    registers.write64(DMA_COMMAND, BigInt(START | direction | RAISE_WHEN_DONE), 'single')
    await interrupted(IRQ_DMA)
  }
  const [sent, received] = [
    buffer.bytes.subarray(0, MEMORY_SIZE),
    buffer.bytes.subarray(MEMORY_SIZE, 2 * MEMORY_SIZE),
  ]
  randomFillSync(sent)
  await copy(mapping.iova, BigInt(DEVICE_MEMORY), 0)
  await copy(BigInt(DEVICE_MEMORY), mapping.iova + BigInt(MEMORY_SIZE), TO_MEMORY)
  assert.deepEqual(received, sent, 'other bytes came back')
  console.log(`${MEMORY_SIZE} bytes went into the device by DMA, and the same came back`)
}

const USAGE = 'usage: npm run example:edu -- ADDRESS [--group] [--backend auto|iommufd|group]'

function parse(args: string[]) {
  try {
    const options = { group: { type: 'boolean' }, backend: { type: 'string' } } as const
    return parseArgs({ args, allowPositionals: true, options })
  } catch {
    throw new UsageError(USAGE)
  }
}

await runProgram('edu', async (signal) => {
  const { values, positionals } = parse(process.argv.slice(2))
  const [address, ...others] = positionals
  if (address === undefined || others.length > 0) throw new UsageError(USAGE)
  const { group = false } = values
  const backend = backendOf(values.backend ?? 'auto')
  const seen = new Host().snapshot({ around: [address] })
  const { vendor, device } = seen.device(address)
  if (vendor !== 0x1234 || device !== 0x11e8) throw new UsageError(`${address} is no edu device (1234:11e8)`)

  // Given back in the reverse order, however this ends. VFIO resets what it can when it opens and closes a device.
  await using _assignment = await assign(planAssignment(seen, [address], { group, reset: 'none' }), {
    signal,
  })
  await using opened = await openDevice(address, { backend, signal })
  await drive(opened, signal)
})
