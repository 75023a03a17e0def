import { strictEqual } from 'node:assert'
import { writeFileSync } from 'node:fs'
import { release } from 'node:os'
import { type Assessment, assess, Host, type Snapshot } from 'vfio'
import { skip } from '../fixtures/skip.js'
import { inUse, load, meetIommu, meetings, put, tryVfio } from './binding.js'
import { byContainer } from './modes.js'
import { type Answer, type CdevAnswer, Oracle } from './oracle.js'
import { allOn, apply, type Group, groupsOf, type State, statesOf } from './states.js'

/** Before 5.18 the kernel lets a group that is not viable have a container, and refuses the device. */
const [major = 0, minor = 0] = release().split('.').map(Number)
const asksOwnership = major > 5 || (major === 5 && minor >= 18)
const publishesResetMethods = major > 5 || (major === 5 && minor >= 15)

const host = new Host()
const oracle = new Oracle()
const used = inUse()
let comparisons = 0

function compare(what: string, predicted: unknown, reason: string, answered: unknown, state: string): void {
  comparisons++
  if (JSON.stringify(predicted) === JSON.stringify(answered)) return
  const lines = [
    `${what}: predicted ${JSON.stringify(predicted)}, Linux ${release()} answered ${JSON.stringify(answered)}`,
    `  predicted since: ${reason}`,
    `  state: ${state}`,
  ]
  throw new Error(lines.join('\n'))
}

/** What a write to `bind` says when the driver refuses: before 5.11 the kernel kept the reason to itself. */
const refusal = (errno: string) => (major > 5 || minor >= 11 ? errno : 'ENODEV')

/** Chooses how a function is reset; `false` where the kernel refuses a method that it lists. */
function setResetMethod(address: string, method: string): boolean {
  try {
    writeFileSync(`/sys/bus/pci/devices/${address}/reset_method`, `${method}\n`)
    return true
  } catch {
    return false
  }
}

const driversOf = (seen: Snapshot, group: Group) =>
  group.members.map((address) => `${address}=${seen.device(address).driver ?? '-'}`).join(' ')

/** Who may get a group, and who gets none: what some kernels tell only once a driver has come. */
function judgeUngrouped(): void {
  meetIommu(used)
  for (const { address, verdict, reason, bound } of meetings.splice(0)) {
    compare(`${address}, in no group, binds`, verdict === 'bindable', reason, bound, 'as found')
  }
}

/** Asks about every member of these groups, and compares all that was predicted of them. */
function judge(seen: Snapshot, groups: readonly { group: Group; name: string }[]): Map<string, Answer> {
  const questions = groups.flatMap(({ group }) =>
    group.members.map((address) => ({ group: group.number, address })),
  )
  const answers = new Map(oracle.ask(questions).map((answer) => [answer.address, answer]))
  for (const { group, name } of groups) {
    const state = `group ${group.number}, ${name}: ${driversOf(seen, group)}`
    for (const address of group.members) {
      const answer = answers.get(address)
      if (!answer) throw new Error(`the oracle said nothing of ${address}`)
      compareAll(assess(seen, address), answer, state)
    }
  }
  return answers
}

const byAddress = (list: Answer['affected']) =>
  [...(list ?? [])].map(({ address, group }) => `${address}/${group}`).sort()

function compareAll(assessed: Assessment, answer: Answer, state: string): void {
  const { address, viability, reset, verdict, reason } = assessed
  const why = viability?.members.map((member) => member.reason).join('; ') ?? reason
  if (answer.viable !== undefined) {
    compare(`group ${answer.group} viable`, viability?.viable, why, answer.viable, state)
    if (asksOwnership) {
      // Where iommufd provides the container, the device is what a group that is not viable does not get.
      const refusal = viability?.viable || !byContainer.isType1 ? 'ok' : 'EPERM'
      compare(`group ${answer.group} SET_CONTAINER`, refusal, why, answer.setContainer, state)
    }
  }
  compare(`${address} ready`, verdict === 'ready', reason, answer.device === 'ok', state)
  if (answer.cdev) compareByCdev(assessed, answer.cdev, state)
  if (answer.functionReset === undefined) return
  const { function: ofFunction, hot } = reset
  compare(`${address} function reset`, ofFunction.supported, ofFunction.reason, answer.functionReset, state)
  // Where the kernel names no affected set there is no hot reset, whatever the prediction lists.
  if (answer.affected) {
    compare(
      `${address} hot reset affects`,
      byAddress(hot.affected as Answer['affected']),
      hot.reason,
      byAddress(answer.affected),
      state,
    )
  } else {
    compare(`${address} hot reset info ${answer.hotInfo}`, hot.supported, hot.reason, false, state)
  }
  compare(
    `${address} hot reset (${answer.hotReset})`,
    hot.supported,
    hot.reason,
    answer.hotReset === 'ok',
    state,
  )
}

/** By cdev the same is refused and reset as by group: who has one device of a group owns all of it. */
function compareByCdev(
  { address, verdict, reason, reset }: Assessment,
  cdev: CdevAnswer,
  state: string,
): void {
  const { function: ofFunction, hot } = reset
  const by = `${address} by cdev`
  compare(`${by} ready`, verdict === 'ready', reason, cdev.bind === 'ok', state)
  if (cdev.functionReset === undefined) return
  compare(`${by} function reset`, ofFunction.supported, ofFunction.reason, cdev.functionReset, state)
  if (cdev.hotReset === undefined) return
  if (cdev.affected) {
    const names = (list: readonly { readonly address: string }[]) => list.map((each) => each.address).sort()
    compare(`${by} hot reset affects`, names(hot.affected), hot.reason, names(cdev.affected), state)
    compare(`${by} hot reset owned`, hot.blockers.length === 0, hot.reason, cdev.owned, state)
    const own = cdev.affected.find((one) => one.address === address)
    compare(`${by} devid`, cdev.devid, 'out_devid of VFIO_DEVICE_BIND_IOMMUFD', own?.devid, state)
  } else {
    compare(`${by} hot reset info ${cdev.hotInfo}`, hot.supported, hot.reason, false, state)
  }
  compare(`${by} hot reset (${cdev.hotReset})`, hot.supported, hot.reason, cdev.hotReset === 'ok', state)
}

describe('agreement with the kernel', function () {
  this.timeout(0)
  let groups: Group[] = []
  /** What the kernel answered by group and drivers: no state is asked about twice. */
  const asked = new Map<string, Map<string, Answer>>()
  const promises: {
    group: Group
    address: string
    toBind: readonly string[]
    state: State
    drivers: string
  }[] = []

  before(() => {
    judgeUngrouped()
    // A parallel SCSI controller scans its bus while it is probed: many minutes where that fails, as in QEMU's lsi.
    const met = host
      .snapshot()
      .devices.filter((device) => !used.has(device.address) && device.class >>> 8 !== 0x0100)
    load(['uio_pci_generic', 'pci-stub', ...met.flatMap(({ modules }) => modules)])
    judgeUngrouped()
    const seen = host.snapshot()
    groups = groupsOf(seen, used)
    judge(
      seen,
      groups.map((group) => ({ group, name: 'as found' })),
    )
  })

  after(() => {
    console.log(`    agreement on ${release()}: ${comparisons} comparisons`)
    for (const group of groups) apply(group, undefined)
    for (const { address, sriov } of host.snapshot().devices) {
      if (sriov?.role !== 'pf' || sriov.vfs.length === 0) continue
      // Only its driver takes them away.
      put(address, 'host')
      writeFileSync(`/sys/bus/pci/devices/${address}/sriov_numvfs`, '0')
      put(address, 'none')
    }
  })

  function round(states: readonly { group: Group; state: State }[]): void {
    const wanted = new Map(states.map(({ group, state }) => [group, state]))
    for (const group of groups) apply(group, wanted.get(group))
    // Around them alone, because a look at all takes a second of an emulated processor, and there are many rounds.
    const seen = host.snapshot({ around: states.flatMap(({ group }) => group.members) })
    const fresh = states.filter(({ group }) => !asked.has(driversOf(seen, group)))
    const answers = judge(
      seen,
      fresh.map(({ group, state }) => ({ group, name: state.name })),
    )
    for (const { group, state } of fresh) {
      const drivers = driversOf(seen, group)
      asked.set(drivers, answers)
      for (const address of group.members) {
        const { verdict, toBind } = assess(seen, address)
        // What the guest lives on is bindable to the kernel, and nothing to try.
        const mayTry = !toBind.some((other) => used.has(other))
        if (verdict === 'bindable' && mayTry) promises.push({ group, address, toBind, state, drivers })
      }
    }
  }

  it('predicts viability and resets in every state of every group', () => {
    const plans = groups.map((group) => ({ group, states: statesOf(group) }))
    const rounds = Math.max(...plans.map(({ states }) => states.length))
    for (let index = 0; index < rounds; index++) {
      round(
        plans.flatMap(({ group, states }) => {
          const state = states[index]
          return state ? [{ group, state }] : []
        }),
      )
    }
  })

  it('makes ready what it calls bindable by binding exactly what it says', () => {
    strictEqual(promises.length > 0, true, 'no device of this topology was bindable')
    for (const { group, address, toBind, state, drivers } of promises) {
      const after = drivers
        .split(' ')
        .map((word) => (toBind.includes(word.split('=')[0] ?? '') ? `${word.split('=')[0]}=vfio-pci` : word))
        .join(' ')
      if (!asked.has(after)) {
        const places = new Map(state.places)
        for (const other of toBind) places.set(other, 'vfio-pci')
        round([{ group, state: { name: `${state.name}, then ${toBind.join(', ')} bound`, places } }])
      }
      const answer = asked.get(after)?.get(address)
      compare(
        `${address} once ${toBind.join(', ')} are bound`,
        'ok',
        'toBind',
        answer?.device,
        `${state.name}: ${drivers}`,
      )
    }
  })

  it('knows that vfio-pci takes no bridge', () => {
    for (const group of groups) apply(group, undefined)
    const seen = host.snapshot()
    for (const address of groups.flatMap(({ bridges }) => bridges)) {
      const { verdict, reason } = assess(seen, address)
      const answer = tryVfio(address)
      compare(`${address} refused`, verdict === 'blocked', reason, answer !== 'ok', 'nothing bound')
      put(address, 'host')
    }
  })

  it('knows that nobody gets the IOMMU', function () {
    const seen = host.snapshot()
    // What is at work as one has a driver, and the guest does not survive its loss.
    const units = seen.host.iommu.units.flatMap(({ address }) =>
      address !== null && seen.device(address).driver === null ? [address] : [],
    )
    if (units.length === 0) skip(this, 'the IOMMU of this host is no PCI function without a driver')
    for (const address of units) {
      const { verdict, reason } = assess(seen, address)
      compare(`${address} refused`, verdict === 'blocked', reason, tryVfio(address) !== 'ok', 'nothing bound')
    }
  })

  it('follows reset_method as the administrator sets it', function () {
    if (!publishesResetMethods) skip(this, 'before 5.15 the kernel has no reset_method')
    const everything = new Map(groups.map((group) => [group.number, allOn(group, 'vfio-pci')]))
    for (const group of groups) apply(group, everything.get(group.number))
    const seen = host.snapshot()
    const listed = groups.flatMap((group) =>
      group.endpoints.flatMap((address) => {
        const methods = seen.device(address).resetMethods ?? []
        return methods.length > 0 ? [{ group: group.number, address, methods: [...methods, ''] }] : []
      }),
    )
    const most = Math.max(...listed.map(({ methods }) => methods.length))
    for (let index = 0; index < most; index++) {
      const chosen = listed.flatMap(({ group, address, methods }) => {
        const method = methods[index]
        if (method === undefined) return []
        if (setResetMethod(address, method)) return [{ group, address, method }]
        const { function: ofFunction } = assess(seen, address).reset
        compare(
          `${address} by ${method}`,
          ofFunction.methods.includes(method),
          ofFunction.reason,
          false,
          'refused by reset_method',
        )
        return []
      })
      const now = host.snapshot()
      const answers = new Map(oracle.ask(chosen, false).map((answer) => [answer.address, answer]))
      for (const { address, method } of chosen) {
        const { function: ofFunction } = assess(now, address).reset
        const answer = answers.get(address)?.functionReset
        const state = `all on vfio-pci, reset_method "${method}"`
        if (answer !== undefined) {
          compare(`${address} function reset`, ofFunction.supported, ofFunction.reason, answer, state)
        }
        setResetMethod(address, 'default')
      }
    }
  })

  it('judges virtual functions, and refuses their physical function', function () {
    for (const group of groups) apply(group, undefined)
    const pfs = host
      .snapshot()
      .devices.filter(
        ({ sriov, address }) => sriov?.role === 'pf' && sriov.totalVfs > 0 && !used.has(address),
      )
    if (pfs.length === 0) skip(this, 'this topology has no SR-IOV')
    for (const { address } of pfs) {
      if (put(address, 'host') === null) {
        throw new Error(`${address} has no host driver that could enable its virtual functions`)
      }
      writeFileSync(`/sys/bus/pci/devices/${address}/sriov_numvfs`, '2')
    }
    judgeUngrouped()
    const seen = host.snapshot()
    const numbers = new Set(
      pfs.flatMap(({ address }) => {
        const { sriov } = seen.device(address)
        return sriov?.role === 'pf' ? [...sriov.vfs, address].map((one) => seen.device(one).group) : []
      }),
    )
    const some = groupsOf(seen, used).filter(({ number }) => numbers.has(number))
    judge(
      seen,
      some.map((group) => ({ group, name: 'virtual functions enabled' })),
    )
    const vfs = some.map((group) => ({
      ...group,
      endpoints: group.endpoints.filter((one) => seen.device(one).sriov?.role === 'vf'),
    }))
    for (const place of ['none', 'uio_pci_generic', 'pci-stub', 'vfio-pci'] as const) {
      for (const group of vfs) apply(group, allOn(group, place))
      judge(
        host.snapshot(),
        vfs.map((group) => ({ group, name: `virtual functions on ${place}` })),
      )
    }
    for (const { address } of pfs) {
      // A driver may take its virtual functions along: then the kernel has nothing against binding it.
      put(address, 'none')
      const { verdict, reason } = assess(host.snapshot(), address)
      compare(
        `${address} is refused`,
        verdict === 'blocked' ? refusal('EBUSY') : 'ok',
        reason,
        tryVfio(address),
        'virtual functions enabled',
      )
    }
  })
})
