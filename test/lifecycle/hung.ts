// Calls that the kernel never answers, for a program or a worker to end while one of them is held.
import { readdirSync, readFileSync } from 'node:fs'
import { DmaBuffer, VfioContainer, VfioGroup } from 'vfio'
import { feature } from '../native/bytes.js'
import { type FakeAnswer, OPENS } from '../native/fake.js'

const SET = 1 << 17

/** `opened` is a device that nobody closes: the end of its environment does. */
export const HUNG = [
  'open',
  'reset',
  'hotReset',
  'map',
  'dirty',
  'feature',
  'migration',
  'read',
  'close',
  'opened',
] as const
export type Hung = (typeof HUNG)[number]

/** Those that take a signal, so that nobody has to wait for them. */
export const ABORTABLE: readonly Hung[] = ['open', 'reset', 'hotReset', 'map', 'feature', 'migration', 'read']

/** Descriptor 3 is a stream in which nothing ever comes. */
const STREAM = feature(8, 2 | SET)
  .u32(3, 3)
  .done()

const PREPARED: FakeAnswer[] = [OPENS, { call: 'migrationState', bytes: STREAM }]

/** What the kernel of such a program answers. */
export const answersFor = (hung: Hung): FakeAnswer[] => {
  const held = (call: FakeAnswer['call']): FakeAnswer => ({ call, when: 'gate' })
  const all: Record<Hung, FakeAnswer[]> = {
    open: [OPENS, { ...held('openDevice'), returns: 'fd' }],
    reset: [OPENS, held('reset')],
    hotReset: [OPENS, held('hotReset')],
    map: [OPENS, held('mapDma')],
    dirty: [OPENS, held('dirtyPages')],
    feature: [OPENS, held('lowPowerExit')],
    migration: [OPENS, held('migrationState')],
    read: PREPARED,
    close: [OPENS, held('close')],
    opened: [OPENS, held('close')],
  }
  return all[hung]
}

/** Opens a device, and begins a call that hangs: returns once the kernel has it. */
export async function hang(hung: Hung, signal: AbortSignal): Promise<unknown> {
  const container = VfioContainer.open()
  const group = VfioGroup.open(1)
  group.setContainer(container)
  container.setIommu('type1v2')
  const device = await group.openDevice('0000:01:00.0')
  const begin: Record<Hung, () => Promise<unknown> | undefined> = {
    open: () => group.openDevice('0000:01:00.1', { signal }),
    reset: () => device.reset({ signal }),
    hotReset: () => device.hotReset([group], { signal }),
    map: () => container.dma.map(DmaBuffer.allocate(4 * 2 ** 20), { signal }),
    dirty: () => container.dma.dirty.start(),
    feature: () => device.feature('low-power-exit').set(undefined, { signal }),
    migration: () => device.migration.setState('stop', { signal }),
    read: () => device.migration.setState('stop-copy').then((data) => data?.read(1, { signal })),
    close: () => device.close(),
    opened: () => undefined,
  }
  // What becomes of it is nobody's business once its environment goes away.
  begin[hung]()?.catch(() => {})
  if (hung !== 'opened') await inKernel(NAMES[hung])
  return [container, group, device]
}

/** What the thread of a call is called, and what the fake kernel writes down when it begins. */
const NAMES: Record<Exclude<Hung, 'opened'>, readonly [thread: string, line?: string]> = {
  open: ['vfio:openDevice', 'begin 6 0000:01:00.1'],
  reset: ['vfio:reset', 'begin 11 0000:01:00.0'],
  hotReset: ['vfio:hotReset', 'begin 13 0000:01:00.0'],
  map: ['vfio:mapDma', 'begin 13 /dev/vfio/vfio'],
  dirty: ['vfio:logDirtyPages', 'begin 17 /dev/vfio/vfio'],
  feature: ['vfio:feature', 'begin 17 0000:01:00.0'],
  migration: ['vfio:setMigrationState', 'begin 17 0000:01:00.0'],
  read: ['vfio:readMigrationData'],
  close: ['vfio:close', 'closing 0000:01:00.0'],
}

/** How much of the name of a thread the kernel keeps. */
const NAME_LENGTH = 15

async function inKernel([thread, line]: readonly [string, string?]): Promise<void> {
  const name = thread.slice(0, NAME_LENGTH)
  while (!threads().includes(name)) await new Promise(setImmediate)
  while (line !== undefined && !log().includes(line)) await new Promise(setImmediate)
}

const log = () => readFileSync(`${process.env.FAKE_VFIO}.log`, 'utf8').split('\n')

function threads(): string[] {
  return readdirSync('/proc/self/task').map((id) => {
    try {
      return readFileSync(`/proc/self/task/${id}/comm`, 'utf8').trim()
    } catch {
      // It has ended meanwhile.
      return ''
    }
  })
}
