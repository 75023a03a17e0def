import { setTimeout } from 'node:timers/promises'
import type { DmaSpace, VfioDevice, VfioRegion } from 'vfio'
import * as commands from './commands.js'
import { NvmeError } from './errors.js'
import {
  type ControllerIdentity,
  decodeController,
  decodeNamespace,
  decodeNamespaceList,
  IDENTIFY_SIZE,
  type Namespace,
} from './identify.js'
import { DmaMemory, type Piece, TransferBuffer } from './memory.js'
import { COMPLETION_SIZE, QueuePair, SUBMISSION_SIZE } from './queue.js'
import * as nvme from './registers.js'
import { Undo } from './undo.js'

/** Few commands go to the admin queue, and one at a time. */
const ADMIN_ENTRIES = 16
const IO_QUEUE = 1
/** Room for 63 commands in flight, where the controller has as much. */
const IO_ENTRIES = 64
/** What a transfer is at most, even where the controller would take more. */
const LARGEST_TRANSFER = 256 * 1024
/** A disk may take longer to write its caches down than to become ready. */
const SHUTDOWN_MS = 10_000

/** A queue for reads and writes. Disposing it takes it from the controller, with what is in flight. */
export interface IoQueue extends AsyncDisposable {
  readonly queue: QueuePair
}

/** A device and the memory that it may use, alone or with others. */
export interface Driven {
  readonly device: VfioDevice
  readonly dma: DmaSpace
}

/**
 * An NVMe controller that is enabled. All memory that it was told of stays mapped until `close()` has it stand still, so
 * that nothing it still does can hit a foreign page.
 */
export class NvmeController implements AsyncDisposable {
  readonly limits: nvme.ControllerLimits
  /** As the specification counts: `1.4`. */
  readonly version: string
  readonly #opened: Driven
  readonly #registers: VfioRegion
  readonly #signal: AbortSignal
  readonly #memory: DmaMemory[] = []
  #admin: QueuePair | undefined
  #page: Piece | undefined
  #identity: ControllerIdentity | undefined

  /** Resets a controller and brings it up. It has to stay open until this is closed. */
  static async start(opened: Driven, signal: AbortSignal): Promise<NvmeController> {
    const controller = new NvmeController(opened, signal)
    try {
      await controller.#start()
      return controller
    } catch (error) {
      await controller.close()
      throw error
    }
  }

  private constructor(opened: Driven, signal: AbortSignal) {
    this.#opened = opened
    this.#signal = signal
    // Nobody takes its INTx; interrupts come by MSI-X.
    opened.device.config.setCommand({ memory: true, intxDisabled: true })
    this.#registers = opened.device.region('bar0')
    this.limits = nvme.decodeCapabilities(this.#registers.read64(nvme.CAP, 'lo-hi'))
    const version = this.#registers.read32(nvme.VS)
    this.version = `${version >>> 16}.${(version >>> 8) & 0xff}`
  }

  get hasMsix(): boolean {
    return this.#opened.device.irqInfo('msix').count > 0
  }

  get identity(): ControllerIdentity {
    if (this.#identity === undefined) throw new NvmeError('the controller was not identified')
    return this.#identity
  }

  /** The most bytes that one command transfers with the buffers of `buffers()`. */
  get maxTransfer(): number {
    const { pageSize } = this.limits
    return Math.min(this.identity.maxTransfer, TransferBuffer.limit(pageSize), LARGEST_TRANSFER)
  }

  async #start(): Promise<void> {
    if (!this.limits.blocks) throw new NvmeError('the controller has no NVM command set: it stores no blocks')
    await this.#disable()
    const { pageSize } = this.limits
    this.#opened.device.config.setCommand({ busMaster: true })
    const memory = await this.#map(3)
    const submission = memory.take(ADMIN_ENTRIES * SUBMISSION_SIZE)
    const completion = memory.take(ADMIN_ENTRIES * COMPLETION_SIZE)
    this.#page = memory.take(IDENTIFY_SIZE)
    this.#registers.write32(nvme.AQA, ((ADMIN_ENTRIES - 1) << 16) | (ADMIN_ENTRIES - 1))
    this.#registers.write64(nvme.ASQ, BigInt(submission.address), 'lo-hi')
    this.#registers.write64(nvme.ACQ, BigInt(completion.address), 'lo-hi')
    this.#registers.write32(nvme.CC, nvme.ENABLE | nvme.ENTRY_SIZES | nvme.pageSizeField(pageSize))
    await this.#until('become ready', (status) => (status & nvme.READY) !== 0, {
      signal: this.#signal,
    })
    this.#admin = this.#pair(0, ADMIN_ENTRIES, submission, completion, false)
    this.#identity = decodeController(await this.#identify('controller', 0), pageSize)
    await this.#run(commands.setQueueCount(1), 'asking for an I/O queue')
  }

  /** The namespaces that can be used, by number. */
  async namespaces(): Promise<number[]> {
    return decodeNamespaceList(await this.#identify('activeNamespaces', 0))
  }

  /** @throws NvmeError there is no such namespace, or its blocks have metadata */
  async namespace(id: number): Promise<Namespace> {
    return decodeNamespace(id, await this.#identify('namespace', id))
  }

  /** Buffers for transfers of at most `size` bytes each. */
  async buffers(count: number, size: number): Promise<TransferBuffer[]> {
    const { pageSize } = this.limits
    const memory = await this.#map(count * TransferBuffer.pages(size, pageSize))
    return Array.from({ length: count }, () => new TransferBuffer(memory, size, pageSize))
  }

  /** Makes the I/O queue; there is one at a time. Its completions come by MSI-X, or are polled for. */
  async ioQueue(completions: 'polling' | 'msix'): Promise<IoQueue> {
    const { pageSize, queueEntries } = this.limits
    const entries = Math.min(queueEntries, IO_ENTRIES)
    const sizes = [entries * SUBMISSION_SIZE, entries * COMPLETION_SIZE] as const
    const memory = await this.#map(sizes.reduce((pages, size) => pages + Math.ceil(size / pageSize), 0))
    const [submission, completion] = [memory.take(sizes[0]), memory.take(sizes[1])]
    const queue = this.#pair(IO_QUEUE, entries, submission, completion, completions === 'msix')
    const undo = new Undo()
    undo.add(() => queue.stop())
    try {
      const vector = completions === 'msix' ? this.#interrupt(queue, undo) : null
      await this.#run(
        commands.createCompletionQueue(IO_QUEUE, entries, completion.address, vector),
        'making the completion queue',
      )
      undo.add(() => this.#remove(commands.deleteCompletionQueue(IO_QUEUE), 'completion'))
      await this.#run(
        commands.createSubmissionQueue(IO_QUEUE, entries, submission.address),
        'making the submission queue',
      )
      undo.add(() => this.#remove(commands.deleteSubmissionQueue(IO_QUEUE), 'submission'))
    } catch (error) {
      await undo.run()
      throw error
    }
    return { queue, [Symbol.asyncDispose]: () => undo.run() }
  }

  /** A controller that does not answer is switched off as a whole, by `close()`. */
  async #remove(command: commands.Command, what: string): Promise<void> {
    if (this.#admin?.failure === null) await this.#run(command, `taking away the ${what} queue`)
  }

  /** Has MSI-X look into a queue; answers by which vector. Vector 0 is the admin queue's, unless there is no other. */
  #interrupt(queue: QueuePair, undo: Undo): number {
    const interrupt = this.#opened.device.irq('msix')
    if (!this.hasMsix) throw new NvmeError('the controller has no MSI-X')
    const vector = Math.min(1, interrupt.info.count - 1)
    interrupt.enable({ vectors: [vector] })
    undo.add(() => interrupt.disable())
    const listener = interrupt.onEvent(() => queue.attend())
    undo.add(() => listener[Symbol.dispose]())
    return vector
  }

  /** Lets the controller write down what it has in its caches, switches it off, and takes its memory away. */
  async close(): Promise<void> {
    const undo = new Undo()
    for (const memory of this.#memory.splice(0)) undo.add(() => memory[Symbol.asyncDispose]())
    undo.add(() => this.#opened.device.config.setCommand({ busMaster: false }))
    undo.add(() => this.#disable())
    const admin = this.#admin
    this.#admin = undefined
    if (admin?.failure === null) undo.add(() => this.#shutDown())
    admin?.stop()
    await undo.run()
  }

  async #shutDown(): Promise<void> {
    const configuration = this.#registers.read32(nvme.CC)
    this.#registers.write32(nvme.CC, ((configuration & ~nvme.SHUTDOWN_MASK) | nvme.SHUTDOWN_NORMAL) >>> 0)
    const isDown = (status: number) => (status & nvme.SHUTDOWN_STATE) === nvme.SHUTDOWN_COMPLETE
    await this.#until('shut down', isDown, { limit: Math.max(SHUTDOWN_MS, this.limits.timeout) })
  }

  /** Switches it off, which resets all but a few registers. */
  async #disable(): Promise<void> {
    const configuration = this.#registers.read32(nvme.CC)
    if ((configuration & nvme.ENABLE) !== 0) {
      // It must not be switched off on its way to readiness; a failed one may never come there.
      const settled = nvme.READY | nvme.FATAL
      await this.#until('become ready', (status) => (status & settled) !== 0)
      this.#registers.write32(nvme.CC, (configuration & ~(nvme.ENABLE | nvme.SHUTDOWN_MASK)) >>> 0)
    }
    await this.#until('stand still', (status) => (status & nvme.READY) === 0)
  }

  /** Waits for a state of the controller, as long as it may take by its own account. */
  async #until(
    what: string,
    is: (status: number) => boolean,
    { signal, limit = this.limits.timeout }: { signal?: AbortSignal; limit?: number } = {},
  ): Promise<void> {
    const deadline = performance.now() + limit
    for (;;) {
      const status = this.#registers.read32(nvme.CSTS)
      if (status !== nvme.ALL_ONES && is(status)) return
      const isStuck = status === nvme.ALL_ONES || (status & nvme.FATAL) !== 0
      if (isStuck || performance.now() > deadline) {
        const time = isStuck ? '' : ` within ${limit / 1000} s`
        throw new NvmeError(`the controller did not ${what}${time}: ${this.#diagnose()}`)
      }
      // No event tells of a change.
      await setTimeout(1, undefined, { signal })
    }
  }

  #diagnose(): string {
    const status = this.#registers.read32(nvme.CSTS)
    if (status === nvme.ALL_ONES) return 'its registers read as ones, so it is gone or switched off'
    const hex = `CSTS 0x${status.toString(16)}`
    return (status & nvme.FATAL) !== 0 ? `it reports a fatal error (${hex})` : `its status is ${hex}`
  }

  #pair(id: number, entries: number, submission: Piece, completion: Piece, interrupts: boolean): QueuePair {
    return new QueuePair({
      ...{ id, entries, submission, completion, interrupts },
      registers: this.#registers,
      doorbellStride: this.limits.doorbellStride,
      diagnose: () => this.#diagnose(),
    })
  }

  async #map(pages: number): Promise<DmaMemory> {
    const memory = await DmaMemory.map(this.#opened.dma, pages, this.limits.pageSize)
    this.#memory.push(memory)
    return memory
  }

  /** The page is the same each time: it has to be decoded before the next. */
  async #identify(what: keyof typeof commands.IDENTIFY, namespace: number): Promise<Uint8Array> {
    if (this.#page === undefined) throw new NvmeError('the controller was not started')
    await this.#run(commands.identify(what, namespace, this.#page.address), `identifying the ${what}`)
    return this.#page.bytes
  }

  async #run(command: commands.Command, what: string): Promise<number> {
    if (this.#admin === undefined)
      throw new NvmeError(`${what} is not possible: the controller is switched off`)
    return this.#admin.run(command, what)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
