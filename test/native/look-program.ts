import { openSync, readFileSync, readSync, writeSync } from 'node:fs'
import type { Plan } from 'vfio'
import { refuseChanged } from '../../lib/assign/recheck.js'
import { Changes } from '../../lib/change/changes.js'
import type { GroupLock } from '../../lib/change/group-lock.js'
import { isGroupOpen } from '../../lib/change/group-open.js'

/**
 * A program that looks and judges over and over, each time with another call failing, and says where a fault let something
 * pass: that takes a process of its own, since the calls are made to fail in all of it.
 */
export interface Look {
  readonly look: 'whole' | 'brief' | 'guard' | 'recheck'
  /** The group to guard; the plan to check again. */
  readonly argument?: unknown
}

export interface Findings {
  readonly calls: number
  /** How often the whole look failed. */
  readonly refused: number
  readonly permitted: readonly (readonly [number, string])[]
  /** What is allowed where no call fails. */
  readonly allowed: readonly string[]
}

interface Input extends Look {
  readonly trees: { readonly sysfs: string; readonly dev: string; readonly proc: string }
  readonly control: string
  readonly errno: number
  readonly step: number
  readonly phase: number
}

/** What is permitted, by name: the more, the larger. */
type Permissions = readonly (readonly [what: string, much: number])[]

// In parts the library has no addon beside it.
const library: typeof import('vfio') = process.env.LOOK_PLAIN
  ? ((await import('../../lib/index.js')) as never)
  : await import('vfio')
const { assess, diagnose, Host, planAssignment, planPersistence, survey } = library

const { trees, control, errno, step, phase, look, argument } = JSON.parse(
  process.env.LOOK_INPUT ?? '',
) as Input
const file = openSync(control, 'r+')
const RANK = ['blocked', 'bindable', 'ready']

function arm(armed: number, failAt: number): void {
  writeSync(file, Buffer.from(Uint32Array.of(armed, 0, failAt, errno).buffer), 0, 16, 0)
}

let calls = 0

function disarm(): void {
  const buffer = Buffer.alloc(16)
  readSync(file, buffer, 0, 16, 0)
  calls = buffer.readUInt32LE(4)
  arm(0, 0)
}

/** Each looks first, then disarms, then judges. */
const LOOKS: Readonly<Record<Look['look'], () => Permissions | Promise<Permissions>>> = {
  whole: () => {
    const seen = new Host(trees).snapshot()
    disarm()
    return [
      ['the host', Number(diagnose(seen).ready)],
      ...seen.devices.flatMap(({ address, headerType, sriov }): Permissions => {
        const { verdict, viability, reset, noIommu } = assess(seen, address)
        const boots = headerType === 'normal' && sriov?.role !== 'vf'
        return [
          [`${address} verdict`, RANK.indexOf(verdict)],
          [`${address} viable`, Number(viability?.viable ?? false)],
          [`${address} without IOMMU`, Number(verdict !== 'blocked' && (noIommu ?? false))],
          [`${address} function reset`, Number(reset.function.supported)],
          [`${address} hot reset`, Number(reset.hot.supported)],
          [`${address} free`, Number(planAssignment(seen, [address]).blockers.length === 0)],
          [`${address} at boot`, Number(boots && planPersistence(seen, [address]).blockers.length === 0)],
        ]
      }),
    ]
  },
  // Twice by one host, which keeps the kind of machine that it is.
  brief: () => {
    const host = new Host(trees)
    const first = host.snapshot({ brief: true })
    disarm()
    return [first, host.snapshot({ brief: true })].flatMap((seen, index) =>
      survey(seen).devices.map(
        ({ address, verdict }) => [`${address} verdict ${index}`, RANK.indexOf(verdict)] as const,
      ),
    )
  },
  guard: () => [['group', Number(!isGroupOpen(argument as number, trees))]],
  recheck: async () => {
    const kernel = { read: async (path: string) => readFileSync(path, 'utf8'), isOpen: () => false }
    using changes = new Changes(trees.sysfs, { kernel }, { descriptor: 0 } as GroupLock)
    await refuseChanged(argument as Plan, changes)
    return [['plan', 1]]
  },
}

/** `null` where nothing could be looked at, which permits nothing. */
async function judge(failAt: number): Promise<ReadonlyMap<string, number> | null> {
  arm(1, failAt)
  try {
    return new Map(await LOOKS[look]())
  } catch (error) {
    // What has no code is no refusal, but a fall.
    if ((error as { code?: unknown }).code === undefined) throw error
    return null
  } finally {
    const buffer = Buffer.alloc(4)
    readSync(file, buffer, 0, 4, 0)
    if (buffer.readUInt32LE(0) !== 0) disarm()
  }
}

const without = await judge(0)
const all = calls
const permitted: [number, string][] = []
let refused = 0
for (let at = 1; at <= all + 2; at++) {
  if (at % step !== phase) continue
  const now = await judge(at)
  if (now === null) refused++
  for (const [what, much] of now ?? []) if (much > (without?.get(what) ?? 0)) permitted.push([at, what])
}
const allowed = [...(without ?? [])].filter(([, much]) => much > 0).map(([what]) => what)
process.stdout.write(`${JSON.stringify({ calls: all, refused, permitted, allowed } satisfies Findings)}\n`)
