// Runs inside the guest: random reads of 4 KiB by the NVMe driver of examples/ and by one in C of the same design, in
// turn: 32 in flight, by polling. Prints JSON.
import { openDevice } from 'vfio'
import { type Command, moveTo } from '../../examples/nvme/commands.js'
import { NvmeController } from '../../examples/nvme/controller.js'
import { Disk } from '../../examples/nvme/disk.js'
import { bindFree, build, compare, run } from './peers.js'

const READS = 100_000
const DEPTH = 32
const BYTES = 4096
const SEED = 0x2545f491

const bound = bindFree(
  'NVMe controller without virtual functions',
  ({ class: kind, sriov }) => kind === 0x010802 && sriov === null,
)
const program = build('nvme')

/** Nanoseconds of a read. */
async function randomReads(disk: Disk): Promise<number> {
  const { controller, namespace, queue } = disk
  const blocks = BYTES / namespace.blockSize
  const places = Math.floor(namespace.blocks / blocks)
  const buffers = await controller.buffers(DEPTH, BYTES)
  let random = SEED
  let submitted = 0
  let completed = 0
  let failed = 0
  const submit = (command: Command, done: (status: number) => void) => {
    random ^= random << 13
    random ^= random >>> 17
    random ^= random << 5
    moveTo(command, ((random >>> 0) % places) * blocks)
    queue.submit(command, done)
    submitted++
  }
  const start = performance.now()
  for (const buffer of buffers) {
    const command = disk.command('read', 0, blocks, buffer)
    const done = (status: number) => {
      failed ||= status
      completed++
      if (submitted < READS) submit(command, done)
    }
    submit(command, done)
  }
  queue.ring()
  while (completed < READS) queue.poll()
  const time = performance.now() - start
  if (failed !== 0) throw queue.errorOf('reading', failed)
  return (time * 1e6) / READS
}

async function ours() {
  await using opened = await openDevice(bound.address)
  await using controller = await NvmeController.start(opened, AbortSignal.timeout(60_000))
  await using io = await controller.ioQueue('polling')
  return { nvme: await randomReads(new Disk(controller, await controller.namespace(1), io.queue)) }
}

console.log(JSON.stringify(await compare(ours, () => run(program, bound, [READS, DEPTH, SEED]))))
