import { exportNodeFeatures, type Snapshot, VfioError, writeNodeFeatures } from 'vfio'
import type { Log } from './log.js'
import type { Offer } from './offer.js'

/** The labels of the node, kept where Node Feature Discovery finds them. */
export class Labels {
  readonly #directory: string
  readonly #log: Log
  #trouble: string | null = null
  /** One after the other, so that the last one stays. */
  #turn: Promise<void> = Promise.resolve()

  constructor(directory: string, log: Log) {
    this.#directory = directory
    this.#log = log
  }

  /** Of each resource those count that a pod could be given. What cannot be written is tried again at the next look. */
  tell(seen: Snapshot, { resources }: Offer): void {
    const counts = resources.map(({ name, devices }) => [
      name,
      devices.filter(({ healthy }) => healthy).length,
    ])
    this.#write(exportNodeFeatures(seen, { resources: Object.fromEntries(counts) }).text)
  }

  /** Takes them away: nobody offers anything here any more. */
  async remove(): Promise<void> {
    this.#write(null)
    await this.#turn
  }

  /** At every look, since others may delete it; what is there already is left as it is. */
  #write(text: string | null): void {
    this.#turn = this.#turn.then(async () => {
      try {
        await writeNodeFeatures(text, this.#directory)
        this.#trouble = null
      } catch (error) {
        const trouble = `the node gets no labels: ${error instanceof VfioError ? error.message : String(error)}`
        if (trouble !== this.#trouble) this.#log(trouble)
        this.#trouble = trouble
      }
    })
  }
}
