import assert from 'node:assert/strict'
import { release } from 'node:os'
import { assess, Host, type OpenedDevices, openDevices } from 'vfio'
import { type IoQueue, NvmeController } from '../../examples/nvme/controller.js'
import { Disk } from '../../examples/nvme/disk.js'
import { patternBytes } from '../../scripts/lab/pattern.js'
import { place } from './assign-host.js'
import { put } from './binding.js'
import { modes } from './modes.js'
import { refused, spare } from './spare.js'

const BLOCK = 4096

async function diskOf(controller: NvmeController, { queue }: IoQueue): Promise<Disk> {
  const [first = 0] = await controller.namespaces()
  return new Disk(controller, await controller.namespace(first), queue)
}

/** Two disks whose content is known: one has blocks of 512 bytes, the other of 4096. */
describe(`several devices in one address space on ${release()}`, function () {
  this.timeout(300_000)
  before(() => place('none'))
  after(() => place('none'))
  const disks = spare.filter(
    ({ class: kind, group }) => kind === 0x010802 && spare.filter((one) => one.group === group).length === 1,
  )

  function open(backend: 'group' | 'iommufd'): Promise<OpenedDevices> {
    for (const { address } of disks) {
      for (const one of assess(new Host().snapshot({ around: [address] }), address).toBind)
        put(one, 'vfio-pci')
    }
    return openDevices(
      disks.map(({ address }) => address),
      { backend },
    )
  }

  for (const { name, backend } of modes) {
    it(`two disks share a buffer by ${name}: one fills it, the other writes it`, async () => {
      assert.equal(disks.length, 2)
      await using opened = await open(backend)
      assert.equal(opened.backend, backend)
      const { dma } = opened
      const { signal } = new AbortController()
      const [source, target] = opened.devices
      assert(source && target)
      await using reader = await NvmeController.start({ device: source, dma }, signal)
      await using writer = await NvmeController.start({ device: target, dma }, signal)
      await using outgoing = await reader.ioQueue('polling')
      await using incoming = await writer.ioQueue('polling')
      const from = await diskOf(reader, outgoing)
      const to = await diskOf(writer, incoming)
      const blocks = ({ namespace }: Disk, bytes: number) => bytes / namespace.blockSize
      const [shared] = await from.controller.buffers(1, BLOCK)
      const [back] = await to.controller.buffers(1, BLOCK)
      assert(shared && back)
      // The third piece of one disk becomes the sixth of the other.
      await from.read(blocks(from, 3 * BLOCK), blocks(from, BLOCK), shared)
      assert.deepEqual(Buffer.from(shared.bytes), patternBytes(3 * BLOCK, BLOCK))
      await to.read(blocks(to, 6 * BLOCK), blocks(to, BLOCK), back)
      assert.deepEqual(Buffer.from(back.bytes), patternBytes(6 * BLOCK, BLOCK))
      await to.write(blocks(to, 6 * BLOCK), blocks(to, BLOCK), shared)
      await to.read(blocks(to, 6 * BLOCK), blocks(to, BLOCK), back)
      assert.deepEqual(Buffer.from(back.bytes), patternBytes(3 * BLOCK, BLOCK))
      // The disks are snapshots, but another mode finds them as this one leaves them.
      back.bytes.set(patternBytes(6 * BLOCK, BLOCK))
      await to.write(blocks(to, 6 * BLOCK), blocks(to, BLOCK), back)
    })

    it(`is refused as a whole by ${name} where one of them cannot be opened`, async () => {
      await using opened = await open(backend)
      // Its node opens twice, and is bound once.
      await refused(open(backend), backend === 'group' ? 'EBUSY' : 'EINVAL')
      await opened.close()
      await (await open(backend)).close()
    })
  }
})
