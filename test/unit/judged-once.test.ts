import assert from 'node:assert/strict'
import { Session } from 'node:inspector/promises'
import { fileURLToPath } from 'node:url'
import {
  assess,
  assessGroup,
  diagnose,
  exportQemu,
  Host,
  planAssignment,
  planPersistence,
  type Snapshot,
  survey,
} from 'vfio'
import { type HostDescription, makeHost, removeDirectories } from '../fixtures/host.js'

const GROUP = 20
const FUNCTIONS = [0, 1, 2, 3].map((fn) => `0000:02:00.${fn}`)

/** Four functions of one slot in one group, below a port in a group of its own. */
const HOST: HostDescription = {
  devices: [
    {
      address: '0000:00:02.0',
      class: 0x060400,
      headerType: 'bridge',
      driver: 'pcieport',
      secondaryBus: 2,
      group: 2,
      capabilities: [{ kind: 'pcie', type: 'root-port' }],
    },
    ...FUNCTIONS.map((address) => ({
      address,
      group: GROUP,
      driver: 'igb',
      multifunction: true,
      resetMethod: 'flr',
      capabilities: [{ kind: 'pcie', flr: true }] as const,
      files: { enable: '0\n' },
    })),
  ],
}

/** The functions that judge one device, or one group, anew. */
const JUDGES = ['assessWithin', 'findUses', 'judgeGroup'] as const
type Counts = Record<(typeof JUDGES)[number], number>

/** How often each of them was called for this, as the engine counts it. */
async function judged(work: (seen: Snapshot) => unknown, brief = false): Promise<Counts> {
  const seen = new Host(makeHost(HOST)).snapshot({ brief })
  const session = new Session()
  session.connect()
  try {
    await session.post('Profiler.enable')
    await session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: false })
    await session.post('Profiler.takePreciseCoverage')
    work(seen)
    const { result } = await session.post('Profiler.takePreciseCoverage')
    const library = new URL('.', import.meta.resolve('vfio')).href
    const called = result
      .filter(({ url }) => url.startsWith(library) || url === fileURLToPath(library))
      .flatMap(({ functions }) => functions)
    const count = (name: string) =>
      called
        .filter(({ functionName }) => functionName === name)
        .reduce((sum, { ranges }) => sum + (ranges[0]?.count ?? 0), 0)
    return Object.fromEntries(JUDGES.map((name) => [name, count(name)])) as Counts
  } finally {
    session.disconnect()
  }
}

const ALL = FUNCTIONS.length
const once = { assessWithin: ALL, findUses: ALL, judgeGroup: 1 }

describe('each device is judged once, and each group', () => {
  after(removeDirectories)

  it('for one device (vfio check, vfio show)', async () => {
    const counts = await judged((seen) => assess(seen, FUNCTIONS[0] ?? ''))
    // Its uses are those of all that has to be bound with it.
    assert.deepEqual(counts, { assessWithin: 1, findUses: ALL, judgeGroup: 1 })
  })

  it('for all functions of a device, and for a group (vfio check)', async () => {
    assert.deepEqual(
      await judged((seen) => seen.devicesAt('02:00').map(({ address }) => assess(seen, address))),
      once,
    )
    assert.deepEqual(await judged((seen) => assessGroup(seen, GROUP)), once)
  })

  it('for an overview (vfio list), which looks at no uses', async () => {
    const counts = await judged((seen) => survey(seen), true)
    assert.deepEqual(counts, { assessWithin: ALL + 1, findUses: 0, judgeGroup: 2 })
  })

  it('for a plan (vfio bind --dry-run), however it is asked for', async () => {
    assert.deepEqual(await judged((seen) => planAssignment(seen, FUNCTIONS)), once)
    assert.deepEqual(await judged((seen) => planAssignment(seen, ['02:00'], { group: true })), once)
    assert.deepEqual(await judged((seen) => planAssignment(seen, FUNCTIONS, { ids: true })), once)
  })

  it('for what binds at boot (vfio persist)', async () => {
    assert.deepEqual(await judged((seen) => planPersistence(seen, FUNCTIONS)), once)
    assert.deepEqual(await judged((seen) => planPersistence(seen, FUNCTIONS, { by: 'ids' })), once)
  })

  it('for a hypervisor (vfio export)', async () => {
    assert.deepEqual(await judged((seen) => exportQemu(seen, FUNCTIONS)), once)
  })

  it('in all that is asked of one look, and not at all to diagnose the host', async () => {
    const all = (seen: Snapshot) => {
      planAssignment(seen, FUNCTIONS)
      exportQemu(seen, FUNCTIONS)
      assessGroup(seen, GROUP)
    }
    assert.deepEqual(await judged(all), once)
    assert.deepEqual(await judged(diagnose), { assessWithin: 0, findUses: 0, judgeGroup: 0 })
  })
})
