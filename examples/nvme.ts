// A user-space NVMe driver. What it can do: npm run example:nvme -- ADDRESS [--group] [--backend B] [--verify] [--seconds S]
// identifies and measures; npm run -s example:nvme -- ADDRESS --read OFFSET LENGTH writes these bytes to standard output.
// The lab has such disks: npm run lab -- --topology disks -- npm run -s example:nvme -- 01:00.0 --verify
import { assign, Host, openDevice, planAssignment } from 'vfio'
import { type Arguments, parseArguments } from './nvme/arguments.js'
import { readBytes } from './nvme/bytes.js'
import { NvmeController } from './nvme/controller.js'
import { Disk } from './nvme/disk.js'
import { NvmeError } from './nvme/errors.js'
import type { Namespace } from './nvme/identify.js'
import { type Rate, randomReads, sequentialReads } from './nvme/throughput.js'
import { verifyRoundTrip } from './nvme/verify.js'
import { runProgram, UsageError } from './program.js'

/** Mass storage, non-volatile memory, NVMe. */
const NVME_CLASS = 0x010802
const RANDOM_DEPTH = 32
const SEQUENTIAL_DEPTH = 8

await runProgram('nvme', async (signal) => {
  const wanted = parseArguments(process.argv.slice(2))
  const seen = new Host().snapshot({ around: [wanted.address] })
  const { address, class: kind } = seen.device(wanted.address)
  if (kind !== NVME_CLASS) throw new UsageError(`${address} is no NVMe controller`)

  // Given back in the reverse order, however this ends. VFIO resets the device when it is opened, and when it is closed.
  await using _assignment = await assign(
    planAssignment(seen, [address], { group: wanted.group, reset: 'none' }),
    { signal },
  )
  await using opened = await openDevice(address, { backend: wanted.backend, signal })
  await using controller = await NvmeController.start(opened, signal)
  const ids = await controller.namespaces()
  const [first] = ids
  if (first === undefined) throw new NvmeError(`${address} has no namespace that could be read`)
  const namespace = await controller.namespace(first)
  if (wanted.read) await copyOut(controller, namespace, wanted.read, signal)
  else await report(controller, namespace, ids, { ...wanted, address }, signal)
})

async function copyOut(
  controller: NvmeController,
  namespace: Namespace,
  { offset, length }: NonNullable<Arguments['read']>,
  signal: AbortSignal,
): Promise<void> {
  if (offset + length > namespace.size) {
    throw new UsageError(
      `${length} bytes from ${offset} on are not all on the disk, which has ${namespace.size} bytes`,
    )
  }
  await using io = await controller.ioQueue(controller.hasMsix ? 'msix' : 'polling')
  const disk = new Disk(controller, namespace, io.queue)
  // A copy is written, because a reader that dawdles outlives the memory of the device when this is aborted.
  const copy = Buffer.alloc(disk.maxTransfer)
  for await (const bytes of readBytes(disk, offset, length)) {
    signal.throwIfAborted()
    copy.set(bytes)
    if (!(await print(copy.subarray(0, bytes.length), signal))) return
  }
}

/** Waits until somebody has taken them; false where nobody wants any more. */
function print(bytes: Uint8Array, signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
    process.stdout.write(bytes, (error) => {
      signal.removeEventListener('abort', stop)
      if (!error) resolve(true)
      else if ((error as NodeJS.ErrnoException).code === 'EPIPE') resolve(false)
      else reject(new NvmeError(`standard output cannot be written: ${error.message}`))
    })
  })
}

async function report(
  controller: NvmeController,
  namespace: Namespace,
  ids: readonly number[],
  { address, verify, seconds }: Arguments,
  signal: AbortSignal,
): Promise<void> {
  const { model, serial, firmware } = controller.identity
  const { limits, version, maxTransfer } = controller
  console.log(`${address}: ${model}, serial ${serial}, firmware ${firmware}`)
  console.log(
    `  NVMe ${version}, queues of up to ${limits.queueEntries} entries, transfers of ${amount(maxTransfer)}`,
  )
  const { id, blocks, blockSize, size } = namespace
  console.log(
    `  namespaces ${ids.join(', ')}; ${id} has ${blocks} blocks of ${blockSize} bytes: ${amount(size)}`,
  )

  for (const completions of verify ? (['polling', 'msix'] as const) : []) {
    await using io = await controller.ioQueue(completions)
    const verified = await verifyRoundTrip(new Disk(controller, namespace, io.queue), signal)
    console.log(
      `  ${verified} bytes written, read back and restored, completions by ${completions === 'msix' ? 'MSI-X' : 'polling'}`,
    )
  }
  if (seconds === 0) return
  await using io = await controller.ioQueue('polling')
  const disk = new Disk(controller, namespace, io.queue)
  const random = await randomReads(disk, { depth: RANDOM_DEPTH, seconds, signal })
  console.log(`  random reads of ${amount(random.bytes / random.operations)}, ${rate(random, RANDOM_DEPTH)}`)
  const sequential = await sequentialReads(disk, { depth: SEQUENTIAL_DEPTH, seconds, signal })
  console.log(
    `  sequential reads of ${amount(sequential.bytes / sequential.operations)}, ${rate(sequential, SEQUENTIAL_DEPTH)}`,
  )
}

function rate({ operations, bytes, seconds }: Rate, depth: number): string {
  return `queue depth ${depth}, polling: ${Math.round(operations / seconds)} per second, ${(bytes / seconds / 1e6).toFixed(1)} MB/s`
}

function amount(bytes: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB']
  const unit = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), units.length - 1)
  const value = bytes / 1024 ** unit
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${units[unit]}`
}
