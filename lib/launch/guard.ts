import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { VfioError } from '../errors.js'
import { keepAlive } from '../native/alive.js'
import type { NativeGuard } from '../native/binding.js'
import { binding } from '../native/load.js'
import { call } from '../native/translate.js'
import { textsOf } from './environment.js'

/** How often one that was ended is replaced: a host that ends every one has its reasons. */
const MOST = 16

/**
 * A process beside this one (`vfio-guard`) that ends the command and gives the devices back when this one has died, however
 * that came. Where it is ended itself, another takes its place.
 */
export class Guard {
  readonly #command: readonly string[]
  #native: NativeGuard
  #ended: Promise<void>
  #isDismissed = false
  #started = 0

  /** @param journal where the record of the devices will be */
  constructor(addresses: readonly string[], journal: string) {
    // No URL of it: bundlers take that for a file which they have to bring.
    const program = join(dirname(fileURLToPath(import.meta.url)), 'cli', 'main.js')
    if (!existsSync(program)) {
      throw new VfioError(
        'ERR_VFIO_RUNTIME',
        `what would give devices back after a crash is not there (${program}): leave the package vfio out of a bundle`,
      )
    }
    this.#command = [process.execPath, program, 'recover', '--kill', '--journal', journal, ...addresses]
    this.#native = this.#start()
    this.#ended = this.#watch()
  }

  get pid(): number {
    return this.#native.pid
  }

  /** There is nothing left to give back. */
  async dismiss(): Promise<void> {
    this.#isDismissed = true
    call(() => this.#native.dismiss())
    await keepAlive(this.#ended)
  }

  #start(): NativeGuard {
    this.#started += 1
    return call(() => binding().Guard.start(this.#command, textsOf(process.env)))
  }

  async #watch(): Promise<void> {
    await this.#native.ended()
    this.#native.closeNow()
    if (this.#isDismissed || this.#started >= MOST) return
    this.#native = this.#start()
    this.#ended = this.#watch()
    // Whoever dismisses it waits for the last one.
    await this.#ended
  }
}
