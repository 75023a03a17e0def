import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { release } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { isPresent, put } from './binding.js'
import { Monitor } from './monitor.js'
import { openByGroup } from './spare.js'

/** A line of `vfio list --watch --json`, as far as this looks at it. */
interface Line {
  readonly event: string
  readonly address?: string
  readonly device?: {
    readonly driver: string | null
    readonly verdict: string
    readonly uses: readonly { kind: string }[]
  }
}

/** The command, and what it prints, one line after the other. */
class Watching implements AsyncDisposable {
  readonly #child = spawn(
    process.execPath,
    [join(process.cwd(), 'dist/cli/main.js'), 'list', '--watch', '--json'],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  readonly #lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()

  /** The next line about an address of this kind; those before it are gone. */
  async next(event: string, address?: string): Promise<Line> {
    for (;;) {
      const { value, done } = await this.#lines.next()
      assert.ok(!done, `it ended before it told of ${event}`)
      const line = JSON.parse(value) as Line
      if (line.event === event && line.address === address) return line
    }
  }

  async stop(): Promise<number | null> {
    const ended = once(this.#child, 'exit')
    this.#child.kill('SIGINT')
    const [status] = (await ended) as [number | null]
    return status
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGKILL')
  }
}

const isOpen = ({ device }: Line) => device?.uses.some(({ kind }) => kind === 'vfio')

describe(`vfio list --watch on ${release()}`, function () {
  this.timeout(300_000)

  it('tells of a device that is bound, opened, closed, released and unplugged', async () => {
    await using monitor = await Monitor.open()
    const address = (await monitor.addresses()).get('watched') ?? ''
    assert.ok(isPresent(address))
    put(address, 'none')
    await using watching = new Watching()
    await watching.next('list')
    put(address, 'vfio-pci')
    const { device } = await watching.next('bound', address)
    assert.deepEqual([device?.driver, device?.verdict], ['vfio-pci', 'ready'])
    const opened = await openByGroup(address)
    assert.ok(isOpen(await watching.next('opened', address)))
    await opened.close()
    assert.ok(!isOpen(await watching.next('closed', address)))
    put(address, 'none')
    assert.equal((await watching.next('unbound', address)).device?.driver, null)
    await monitor.remove('watched')
    await watching.next('removed', address)
    assert.equal(isPresent(address), false)
    await monitor.execute('device_add', {
      driver: 'nvme',
      id: 'watched-again',
      bus: 'rp_watched',
      drive: 'disk7',
      serial: 'again',
    })
    await watching.next('added', address)
    assert.equal(await watching.stop(), 130)
  })
})
