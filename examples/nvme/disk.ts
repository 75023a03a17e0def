import * as commands from './commands.js'
import type { NvmeController } from './controller.js'
import { NvmeError } from './errors.js'
import type { Namespace } from './identify.js'
import type { TransferBuffer } from './memory.js'
import type { QueuePair } from './queue.js'

/** A namespace that is read and written through a queue. */
export class Disk {
  readonly controller: NvmeController
  readonly namespace: Namespace
  readonly queue: QueuePair
  /** The most bytes of one transfer: a multiple of the block size. */
  readonly maxTransfer: number

  constructor(controller: NvmeController, namespace: Namespace, queue: QueuePair) {
    this.controller = controller
    this.namespace = namespace
    this.queue = queue
    this.maxTransfer = controller.maxTransfer - (controller.maxTransfer % namespace.blockSize)
    if (this.maxTransfer === 0 || namespace.blocks === 0) {
      throw new NvmeError(
        `namespace ${namespace.id} has ${namespace.blocks} blocks of ${namespace.blockSize} bytes, and one transfer has at most ${controller.maxTransfer}: this driver cannot read it`,
      )
    }
  }

  /** The command that transfers `blocks` blocks from `lba` on; the data begin where the buffer does. */
  command(kind: 'read' | 'write', lba: number, blocks: number, buffer: TransferBuffer): commands.Command {
    const second = buffer.second(blocks * this.namespace.blockSize)
    return commands.transfer(kind, this.namespace.id, lba, blocks, buffer.address, second)
  }

  async read(lba: number, blocks: number, into: TransferBuffer): Promise<void> {
    await this.queue.run(this.command('read', lba, blocks, into), `reading ${this.#where(lba, blocks)}`)
  }

  async write(lba: number, blocks: number, from: TransferBuffer): Promise<void> {
    await this.queue.run(this.command('write', lba, blocks, from), `writing ${this.#where(lba, blocks)}`)
  }

  /** All that was written is on the medium afterwards. */
  async flush(): Promise<void> {
    await this.queue.run(commands.flush(this.namespace.id), 'writing the cache down')
  }

  #where(lba: number, blocks: number): string {
    return blocks === 1 ? `block ${lba}` : `${blocks} blocks from ${lba} on`
  }
}
