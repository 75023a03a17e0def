import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import type { ListEvent } from '../../lib/cli/answers.js'
import { fail } from '../../lib/cli/failure.js'
import { follow } from '../../lib/cli/watch.js'
import {
  type Choice,
  changesBetween,
  choose,
  type DeviceEvent,
  Host,
  type Survey,
  type SurveyChange,
  survey,
} from '../../lib/index.js'
import { type HostTrees, removeDirectories } from '../fixtures/host.js'
import { SINGLE, THREE } from './assign-hosts.js'
import { makeKernelHost, SimulatedKernel } from './assign-kernel.js'
import { capturing, type Ran, vfio } from './in-process.js'
import { ROOT } from './support.js'

const NVME = '0000:01:00.0'

const event = (
  kind: DeviceEvent['kind'],
  address: string | null = NVME,
  what: string = kind,
): DeviceEvent => ({
  kind,
  address,
  what,
})

/** What the kernel does to a host while it is watched, and tells. */
interface Watched {
  write(file: string, text: string): Promise<void>
  /** Lets the command hear these, and waits until it has looked. */
  tell(...events: readonly DeviceEvent[]): Promise<void>
  stopHearing(topic?: 'devices' | 'opens'): void
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

async function watched(
  trees: HostTrees,
  {
    choice = {},
    showsAll = false,
    isJson = false,
  }: { choice?: Choice; showsAll?: boolean; isJson?: boolean },
  during: (watched: Watched) => Promise<void>,
): Promise<Ran & { readonly closed: boolean }> {
  let hear: (event: DeviceEvent) => void = () => {}
  let closed = false
  const hears = new Set(['devices', 'opens'] as const)
  const kernel = new SimulatedKernel(trees)
  const ran = await capturing(['vfio', 'list', '--watch', ...(isJson ? ['--json'] : [])], async () => {
    const ended = follow({
      look: () => survey(new Host(trees).snapshot()),
      fits: (all) => choose(all, choice),
      style: { showsAll, isFiltered: false },
      isJson,
      listen: (listener) => {
        hear = listener
        const close = () => {
          closed = true
        }
        return {
          hears: hears as never,
          get unseen() {
            return hears.size === 2
              ? []
              : hears.has('devices')
                ? ['no opens can be heard']
                : ['nothing can be heard']
          },
          close,
        }
      },
    })
    // It may fail before it is waited for.
    ended.catch(() => {})
    try {
      await during({
        write: (file, text) => kernel.write(`${trees.sysfs}/bus/pci/${file}`, text),
        tell: async (...events) => {
          for (const one of events) hear(one)
          await turn()
        },
        stopHearing: (topic = 'devices') => hears.delete(topic),
      })
      // Nobody else listens to it here.
      process.emit('SIGHUP', 'SIGHUP')
      process.exitCode = await ended
    } catch (error) {
      fail(error)
    }
  })
  return { ...ran, closed }
}

const eventsOf = ({ stdout }: Ran) =>
  stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as ListEvent)

const told = (events: readonly ListEvent[]) =>
  events.map((one) => ('address' in one ? `${one.event} ${one.address}` : one.event))

const toVfio = async ({ write }: Watched) => {
  await write(`devices/${NVME}/driver_override`, 'vfio-pci')
  await write('drivers/nvme/unbind', NVME)
  await write('drivers_probe', NVME)
}

describe('vfio list --watch', function () {
  this.timeout(30_000)
  after(removeDirectories)

  it('prints what there is as a program reads it, and then each change in a line', async () => {
    const ajv = new Ajv2020({ strict: true, allErrors: true, allowUnionTypes: true })
    const schema = JSON.parse(readFileSync(join(ROOT, 'dist/schemas/list.json'), 'utf8')) as object
    const fits: ValidateFunction = ajv.compile(schema)
    const trees = makeKernelHost(SINGLE)
    const ran = await watched(trees, { isJson: true }, async (host) => {
      await host.write('drivers/nvme/unbind', NVME)
      await host.tell(event('unbound'))
      await host.write(`devices/${NVME}/driver_override`, 'vfio-pci')
      await host.write('drivers_probe', NVME)
      await host.tell(event('bound'))
      await host.tell(event('opened'))
      await host.tell(event('closed'), event('corrected', NVME, 'it has a PCIe error'))
      await host.tell(event('lost', null, 'messages were lost'))
      await host.write(`devices/${NVME}/remove`, '1')
      await host.tell(event('removed'))
      await host.write('rescan', '1')
      await host.tell(event('added'))
    })
    assert.deepEqual([ran.status, ran.stderr, ran.closed], [129, '', true])
    const events = eventsOf(ran)
    for (const one of events) assert.ok(fits(one), JSON.stringify([one, fits.errors]))
    assert.deepEqual(told(events), [
      'list',
      ...['unbound', 'bound', 'opened', 'closed', 'corrected'].map((kind) => `${kind} ${NVME}`),
      'lost',
      // A program has got the bridges too: which reset goes through one changes with what is below it.
      ...['changed 0000:00:01.0', `removed ${NVME}`, 'changed 0000:00:01.0', `added ${NVME}`],
    ])
    const [first, unbound, bound, , , corrected] = events as [ListEvent, ...SurveyChange[]]
    assert.ok('list' in first && first.list.devices.length === 2)
    assert.equal(unbound?.device.driver, null)
    assert.match(unbound?.what ?? '', /^0000:01:00\.0 was unbound from nvme: /)
    assert.deepEqual([bound?.device.driver, bound?.device.verdict], ['vfio-pci', 'ready'])
    assert.equal(corrected?.what, 'it has a PCIe error')
  })

  it('prints a line for each change in the columns of the list, and what is not plain from them behind', async () => {
    const ran = await watched(makeKernelHost(SINGLE), {}, async (host) => {
      await toVfio(host)
      await host.tell(event('unbound'), event('bound'))
      await host.tell(event('release-requested', NVME, `somebody wants ${NVME} back`))
      await host.write(`devices/${NVME}/remove`, '1')
      await host.tell(event('removed'))
    })
    assert.equal(ran.stderr, '')
    const [head = '', ...lines] = ran.stdout.trimEnd().split('\n')
    assert.match(head, /^CHANGE +GROUP ADDRESS CLASS +DRIVER +VERDICT +WITH USED +RESET +DEVICE$/)
    assert.equal(lines.length, 3, ran.stdout)
    assert.match(lines[0] ?? '', /^bound +10 01:00\.0 NVMe +vfio-pci ready +function .*Samsung/)
    assert.match(
      lines[1] ?? '',
      /^wanted +10 01:00\.0 NVMe +vfio-pci ready +.*: somebody wants 01:00\.0 back$/,
    )
    assert.match(lines[2] ?? '', /^removed +10 01:00\.0 NVMe +- +- +- /)
    const at = head.indexOf('VERDICT')
    assert.ok(lines[0]?.slice(at).startsWith('ready'), ran.stdout)
  })

  it('tells of what fits, before or afterwards, and of no other device', async () => {
    const choice = { driver: 'vfio-pci' }
    const bound = await watched(makeKernelHost(SINGLE), { isJson: true, choice }, async (host) => {
      await toVfio(host)
      await host.tell(event('bound'))
      await host.write('drivers/vfio-pci/unbind', NVME)
      await host.tell(event('unbound'))
      await host.write(`devices/${NVME}/driver_override`, '')
      await host.write('drivers_probe', NVME)
      await host.tell(event('bound'))
    })
    assert.deepEqual(told(eventsOf(bound)), ['list', `bound ${NVME}`, `unbound ${NVME}`])
    const group = await watched(
      makeKernelHost(SINGLE),
      { isJson: true, choice: { group: 10 } },
      async (host) => {
        await host.tell(event('error', '0000:00:01.0'), event('error'))
      },
    )
    assert.deepEqual(told(eventsOf(group)), ['list', `error ${NVME}`])
    // Bridges are no devices to give away.
    const hidden = await watched(makeKernelHost(SINGLE), {}, (host) =>
      host.tell(event('error', '0000:00:01.0')),
    )
    assert.equal(hidden.stdout.split('\n').length, 2)
    const all = await watched(makeKernelHost(SINGLE), { showsAll: true }, (host) =>
      host.tell(event('error', '0000:00:01.0')),
    )
    assert.match(all.stdout, /\nerror +1 00:01\.0 /)
  })

  it('says nothing where nothing has changed, and what the others of a group become', async () => {
    const quiet = await watched(makeKernelHost(SINGLE), { isJson: true }, (host) =>
      host.tell(event('changed'), event('bound')),
    )
    assert.deepEqual(told(eventsOf(quiet)), ['list'])
    const trees = makeKernelHost(THREE)
    const group = await watched(trees, { isJson: true }, async (host) => {
      await host.write('drivers/e1000e/unbind', '0000:02:00.0')
      await host.tell(event('unbound', '0000:02:00.0'))
    })
    const changes = eventsOf(group).slice(1) as SurveyChange[]
    assert.equal(changes[0]?.event, 'unbound')
    assert.ok(changes.length > 1)
    for (const { event: kind, address } of changes.slice(1)) {
      assert.equal(kind, 'changed')
      assert.match(address, /^0000:02:00\.[12]$/)
    }
  })

  it('tells once what has happened and shows', () => {
    const { before, after } = opened()
    assert.deepEqual(
      changesBetween(before, after, [event('opened')]).map(({ event: kind }) => kind),
      ['opened'],
    )
    assert.deepEqual(
      changesBetween(before, after).map(({ event: kind }) => kind),
      ['changed'],
    )
    assert.deepEqual(changesBetween(before, before, [event('opened', '0000:77:00.0')]), [])
  })

  it('tells that something went where it, or another one, is back before anybody looks', () => {
    const { before } = opened()
    const again = changesBetween(before, before, [event('removed'), event('added'), event('bound')])
    assert.deepEqual(
      again.map(({ event: kind }) => kind),
      ['removed', 'added'],
    )
  })

  it('ends with what is wrong where it hears nothing, at first or later', async () => {
    const deaf = await watched(makeKernelHost(SINGLE), { isJson: true }, async (host) => {
      host.stopHearing()
      await host.tell(event('lost', null))
    })
    assert.equal(deaf.status, 1)
    assert.equal(deaf.stderr, 'vfio: nothing can be heard\n')
    assert.match(
      deaf.stdout,
      /\{"error":\{"code":"ERR_VFIO_NO_EVENTS","message":"nothing can be heard"\}\}\n$/,
    )
    assert.ok(deaf.closed)
  })

  it('says what it does not hear, and goes on', async () => {
    const during = async (host: Watched) => {
      host.stopHearing('opens')
      await host.tell(event('changed'))
    }
    const lines = await watched(makeKernelHost(SINGLE), {}, during)
    assert.deepEqual([lines.status, lines.stderr], [129, 'vfio: no opens can be heard\n'])
    const events = eventsOf(await watched(makeKernelHost(SINGLE), { isJson: true }, during))
    assert.deepEqual(events.at(-1), { event: 'lost', what: 'no opens can be heard' })
  })

  it('is of this host, and of no copied tree', async () => {
    const { status, stderr } = await vfio(['list', '--watch', '--sysfs', makeKernelHost(SINGLE).sysfs])
    assert.equal(status, 2)
    assert.match(stderr, /^vfio: .*--watch.*--sysfs/)
  })
})

function opened(): { readonly before: Survey; readonly after: Survey } {
  const before = survey(new Host(makeKernelHost(SINGLE)).snapshot())
  const use = { kind: 'vfio', address: NVME, what: 'group 10 is open', severity: 'blocks' } as const
  const devices = before.devices.map((one) => (one.address === NVME ? { ...one, uses: [use] } : one))
  return { before, after: { ...before, devices } }
}
