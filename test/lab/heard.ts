import { type DeviceEvent, type DeviceEventKind, type Watch, watchDevices } from 'vfio'

/** What a watch tells, for tests that wait for one thing after the other. */
export class Heard implements Disposable {
  readonly watch: Watch
  readonly #events: DeviceEvent[] = []
  #arrived: (() => void) | null = null

  constructor(addresses: readonly string[] | 'all') {
    this.watch = watchDevices(addresses, (event) => {
      this.#events.push(event)
      this.#arrived?.()
    })
  }

  /** The next event of this kind; what came before it is gone. */
  async next(kind: DeviceEventKind): Promise<DeviceEvent> {
    return (await this.until(kind)).at(-1) as DeviceEvent
  }

  /** All that came up to the next event of this kind, with that. */
  async until(kind: DeviceEventKind): Promise<readonly DeviceEvent[]> {
    for (;;) {
      const at = this.#events.findIndex((event) => event.kind === kind)
      if (at >= 0) return this.#events.splice(0, at + 1)
      await new Promise<void>((resolve) => {
        this.#arrived = resolve
      })
    }
  }

  [Symbol.dispose](): void {
    this.watch.close()
  }
}
