import { closeSync } from 'node:fs'
import type { Socket } from 'node:net'
import { builtin } from '../builtin.js'
import { VfioError } from '../errors.js'
import { binding } from '../native/load.js'
import { translate } from '../native/translate.js'

const WORD = 4

interface Asked {
  readonly path: string
  readonly resolve: (bytes: Buffer) => void
  readonly reject: (error: unknown) => void
}

/**
 * A second process that reads and writes files on which the kernel may block for ever, so that this one can end meanwhile. It
 * then goes on by itself, with the lock that it was given, and ends after its answer.
 */
export class Writer {
  readonly #pid: number
  readonly #descriptor: number
  readonly #socket: Socket
  #asked: Asked | null = null
  #received = Buffer.alloc(0)
  #isReady = false
  #ready: { resolve: () => void; reject: (error: unknown) => void } | null = null

  private constructor({ pid, socket }: { pid: number; socket: number }) {
    this.#pid = pid
    this.#descriptor = socket
    const { Socket } = builtin('node:net')
    this.#socket = new Socket({ fd: socket, readable: true, writable: true })
    this.#socket.on('data', (chunk: Buffer) => this.#receive(chunk))
    this.#socket.on('error', () => {})
    this.#socket.on('end', () => this.#end())
  }

  /** Starts one, and waits until it has closed everything that it inherited. */
  static async start(): Promise<Writer> {
    const writer = new Writer(startProcess())
    if (writer.#socket.pending) writer.#refuse()
    await new Promise<void>((resolve, reject) => {
      writer.#ready = { resolve, reject }
    })
    return writer
  }

  /** A runtime that leaves a socket made from a descriptor pending never receives anything on it. */
  #refuse(): never {
    closeSync(this.#descriptor)
    binding().reapWriter(this.#pid)
    throw new VfioError(
      'ERR_VFIO_RUNTIME',
      'the runtime of this program cannot hear from the process that asks the kernel: run it with Node',
    )
  }

  /** One write of a whole text. @param lock kept open until it is done */
  async write(path: string, text: string, lock?: number): Promise<void> {
    await this.#ask(true, path, text, lock)
  }

  /** The first 4,096 bytes of a file. */
  async read(path: string, lock?: number): Promise<string> {
    return (await this.#ask(false, path, '', lock)).toString('utf8')
  }

  /** Stops keeping this program alive for it. Its call may still take effect; its answer still settles the promise. */
  leave(): void {
    this.#socket.unref()
  }

  /** Lets it end after the call that it makes now. */
  close(): void {
    this.#socket.end()
  }

  #ask(write: boolean, path: string, text: string, lock: number | undefined): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.#asked = { path, resolve, reject }
      try {
        binding().askWriter(this.#descriptor, write, path, text, lock)
      } catch (error) {
        this.#asked = null
        reject(ended(` before it was asked for ${path}`, error))
      }
    })
  }

  #receive(chunk: Buffer): void {
    this.#received = Buffer.concat([this.#received, chunk])
    if (this.#received.length < WORD) return
    const answer = new Int32Array(Uint8Array.from(this.#received.subarray(0, WORD)).buffer)[0] ?? 0
    if (this.#received.length < WORD + Math.max(answer, 0)) return
    const bytes = this.#received.subarray(WORD)
    this.#received = Buffer.alloc(0)
    if (!this.#isReady) {
      this.#isReady = true
      this.#ready?.resolve()
      return
    }
    const asked = this.#asked
    this.#asked = null
    if (answer >= 0) asked?.resolve(bytes)
    // The shape of an error of `node:fs`.
    else asked?.reject(Object.assign(new Error(`errno ${-answer}`), { errno: answer }))
  }

  #end(): void {
    binding().reapWriter(this.#pid)
    const error = ended(this.#asked ? ` while it was at ${this.#asked.path}` : '')
    this.#asked?.reject(error)
    this.#asked = null
    this.#ready?.reject(error)
  }
}

function startProcess(): { pid: number; socket: number } {
  try {
    return binding().startWriter()
  } catch (error) {
    throw translate(error)
  }
}

/** Whether its last call took effect is not known: the caller has to look. */
const ended = (when: string, cause?: unknown) =>
  new VfioError('ERR_VFIO_NOT_BOUND', `the process that changes the host was ended${when}`, { cause })
