import assert from 'node:assert/strict'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import fc from 'fast-check'
import {
  Host,
  type Plan,
  type PlanOptions,
  planAssignment,
  planPersistence,
  type Step,
  VfioError,
} from 'vfio'
import {
  type DeviceDescription,
  type HostDescription,
  type HostTrees,
  makeHost,
  READY_MODULES,
  removeDirectories,
} from '../fixtures/host.js'
import { planOn, SINGLE, THREE, TWINS } from './assign-hosts.js'
import { makeKernelHost, photograph } from './assign-kernel.js'
import { present, runs, see } from './support.js'

const NVME = '0000:01:00.0'
const SLOT = ['0000:02:00.0', '0000:02:00.1', '0000:02:00.2']

/** One step in a line, with paths as they are below `bus/pci`. */
const short = ({ steps, paths }: Plan): string[] =>
  steps.map(({ action, path, value }) => `${action} ${path.replace(`${paths.sysfs}/bus/pci/`, '')} ${value}`)

const plan = (host: HostDescription, addresses: readonly string[], options: PlanOptions = {}): Plan =>
  planOn(makeKernelHost(host), addresses, options)

const reasons = ({ blockers }: Plan) => blockers.map(({ code, reason }) => `${code} ${reason}`)

/** The device of a host, with something else about it. */
const but = (host: HostDescription, address: string, other: Partial<DeviceDescription>): HostDescription => ({
  ...host,
  devices: (host.devices ?? []).map((device) =>
    device.address === address ? { ...device, ...other } : device,
  ),
})

const BOUND: HostDescription = but(SINGLE, NVME, { driver: 'vfio-pci', files: { enable: '0\n' } })

/** A process that has a file below `/dev` open. */
function holder({ proc, dev }: HostTrees, node: string): void {
  mkdirSync(`${proc}/4242/fd`, { recursive: true })
  writeFileSync(`${proc}/4242/stat`, `4242 (guest of mine) S 1 1 1 0 -1 4194304 0\n`)
  symlinkSync(`/dev/${node}`, `${proc}/4242/fd/7`)
  assert.ok(dev)
}

/** Of each kind of step by itself. */
type Unexplained<S> = S extends Step ? Omit<S, 'why'> : never

describe('planAssignment', () => {
  afterEach(removeDirectories)

  it('plans one device: override, unbind, probe, reset, each with its address, its reason and what must be true after', () => {
    const trees = makeKernelHost(SINGLE)
    const { steps, ...rest } = planOn(trees, ['1:00.0'.padStart(7, '0')])
    const device = `${trees.sysfs}/bus/pci/devices/${NVME}`
    const whys = steps.map(({ why }) => why)
    assert.deepEqual(
      steps.map(({ why, ...step }) => step),
      [
        {
          kind: 'override',
          action: 'write',
          path: `${device}/driver_override`,
          value: 'vfio-pci',
          address: NVME,
        },
        {
          kind: 'unbind',
          action: 'write',
          path: `${device}/driver/unbind`,
          value: NVME,
          address: NVME,
          expectDriver: null,
        },
        {
          kind: 'bind',
          action: 'write',
          path: `${trees.sysfs}/bus/pci/drivers_probe`,
          value: NVME,
          address: NVME,
          expectDriver: 'vfio-pci',
        },
        { kind: 'reset', action: 'reset', path: `${trees.dev}/vfio/10`, value: 'function', address: NVME },
      ] satisfies Unexplained<Step>[],
    )
    assert.deepEqual(whys, [
      'lets only vfio-pci take this device, and no other device with the same ids',
      'takes it from nvme',
      'binds it to vfio-pci',
      `${NVME} can be reset by itself: PCIe function-level reset (flr)`,
    ])
    assert.deepEqual(
      { ...rest, paths: null },
      {
        addresses: [NVME],
        toBind: [NVME],
        uses: [],
        blockers: [],
        warnings: [],
        reset: 'before-and-after',
        devices: [
          { address: NVME, group: 10, driver: 'vfio-pci', former: { driver: 'nvme', override: null } },
        ],
        grabbed: [],
        basis: [{ address: NVME, driver: 'nvme', override: null, ids: '144d:a808' }],
        ids: [],
        paths: null,
        options: {
          driver: 'auto',
          group: false,
          ids: false,
          noIommu: false,
          reset: 'before-and-after',
          force: [],
        },
      },
    )
  })

  it('names the node that a reset opens: the group, or that of the device where the kernel has no container', () => {
    const { vfio_iommu_type1: _type1, ...rest } = READY_MODULES
    const alone = { ...rest, iommufd: { state: 'loaded' as const } }
    const opened = (host: HostDescription) => {
      const trees = makeKernelHost(host)
      return planOn(trees, [NVME]).steps.flatMap((step) =>
        step.kind === 'reset' ? [[step.path.replace(`${trees.dev}/`, ''), step.iommufd]] : [],
      )
    }
    const withNode = but(BOUND, NVME, { vfioDevice: 'vfio3' })
    assert.deepEqual(opened(SINGLE), [['vfio/10', undefined]])
    assert.deepEqual(opened(withNode), [['vfio/10', undefined]])
    assert.deepEqual(opened({ ...SINGLE, modules: alone }), [['vfio/devices', true]])
    assert.deepEqual(opened({ ...withNode, modules: alone }), [['vfio/devices/vfio3', true]])
  })

  it('plans ids on the whole host only', () => {
    const seen = new Host(makeHost(TWINS)).snapshot({ around: ['03:00.0'] })
    assert.equal(seen.isPartial, true)
    assert.match(
      reasons(planAssignment(seen, ['03:00.0'], { ids: true })).join(),
      /ids may fit devices that were not looked at/,
    )
    assert.deepEqual(reasons(planAssignment(seen, ['03:00.0'])), [])
    assert.throws(() => planPersistence(seen, ['03:00.0'], { by: 'ids' }), { code: 'ERR_VFIO_BAD_ARGUMENT' })
  })

  it('plans a hot reset over several groups of ours, and none that the port would fail', () => {
    for (const linkActive of [true, false]) {
      const functions = [0, 1].map((fn) => ({
        address: `0000:01:00.${fn}`,
        group: 10 + fn,
        multifunction: true,
        capabilities: [{ kind: 'pcie' }, { kind: 'pm', noSoftReset: true }] as const,
        resetMethod: 'pm bus',
      }))
      const port = {
        address: '0000:00:01.0',
        class: 0x060400,
        headerType: 'bridge',
        secondaryBus: 1,
        driver: 'pcieport',
        group: 1,
        capabilities: [{ kind: 'pcie', type: 'root-port', linkActive, linkSpeed: 4 }],
      } as const
      const seen = see({ devices: [port, ...functions] })
      const { steps, warnings } = planAssignment(
        seen,
        functions.map(({ address }) => address),
      )
      const resets = steps.flatMap(({ action, address, value }) =>
        action === 'reset' ? `${value} ${address}` : [],
      )
      assert.deepEqual(resets, linkActive ? ['hot 0000:01:00.0'] : [])
      assert.equal(warnings.filter((text) => text.includes('keeps its state')).length, linkActive ? 0 : 2)
    }
  })

  it('resets no virtual function that takes a token to open', () => {
    const pf = { capabilities: [{ kind: 'pcie' }, { kind: 'sriov', totalVfs: 4 }], totalVfs: 4 } as const
    const vf = { resetMethod: 'flr', capabilities: [{ kind: 'pcie', flr: true }] } as const
    for (const driver of ['vfio-pci', 'igb']) {
      const seen = see({
        devices: [
          { address: '0000:00:05.0', driver, group: 1, ...pf },
          { address: '0000:00:06.0', physfn: '0000:00:05.0', group: 2, ...vf },
        ],
      })
      const { steps, warnings } = planAssignment(seen, ['00:06.0'])
      const isReset = steps.some(({ action }) => action === 'reset')
      assert.equal(isReset, driver === 'igb')
      assert.equal(/VF token/.test(warnings.join()), driver === 'vfio-pci')
    }
  })

  it('names who has to come along, and plans the whole group where that is asked for or named', () => {
    const alone = plan(THREE, ['02:00.0'])
    assert.deepEqual(reasons(alone), [
      'ERR_VFIO_INCOMPLETE_GROUP 0000:02:00.0 shares its group with 0000:02:00.1, which must be bound too: name them as well, or take the whole group with --group',
    ])
    const steps = [
      'write devices/0000:02:00.0/driver_override vfio-pci',
      'write devices/0000:02:00.0/driver/unbind 0000:02:00.0',
      'write devices/0000:02:00.1/driver_override vfio-pci',
      'write devices/0000:02:00.1/driver/unbind 0000:02:00.1',
      'write devices/0000:02:00.2/driver_override vfio-pci',
      'write drivers_probe 0000:02:00.0',
      'write drivers_probe 0000:02:00.1',
      'write drivers_probe 0000:02:00.2',
    ]
    const whole = plan(THREE, ['02:00.2'], { group: true })
    assert.deepEqual(whole.blockers, [])
    assert.deepEqual(whole.addresses, ['0000:02:00.2'])
    assert.deepEqual(whole.toBind, SLOT)
    // One hot reset covers all three of the slot, and is aimed at the first.
    assert.deepEqual(short(whole), [...steps, `reset ${whole.paths.dev}/vfio/20 hot`])
    assert.deepEqual(
      whole.devices.map(({ former }) => former),
      [
        { driver: 'e1000e', override: null },
        { driver: 'uio_pci_generic', override: 'uio_pci_generic' },
        { driver: null, override: null },
      ],
    )
    const named = plan(THREE, ['02:00.2', '02:00.1', '02:00.0', '0000:02:00.1'])
    assert.deepEqual(short(named).slice(0, 8), steps)
    assert.deepEqual(named.addresses, [...SLOT].reverse())
  })

  it('resets as asked: not at all, each by itself, all at once where all are ours, else it says who keeps its state', () => {
    assert.deepEqual(short(plan(SINGLE, [NVME], { reset: 'none' })).length, 3)
    assert.equal(plan(SINGLE, [NVME], { reset: 'none' }).reset, 'none')
    for (const reset of ['before', 'before-and-after'] as const) {
      const planned = plan(SINGLE, [NVME], { reset })
      assert.equal(planned.reset, reset)
      assert.equal(planned.steps.filter(({ action }) => action === 'reset').length, 1)
    }
    // The unbound third function is hit by a hot reset too.
    const partly = plan(THREE, SLOT.slice(0, 2))
    assert.deepEqual(partly.blockers, [])
    assert.equal(partly.steps.filter(({ action }) => action === 'reset').length, 0)
    assert.equal(partly.warnings.length, 2)
    for (const [index, warning] of partly.warnings.entries())
      assert.match(warning, new RegExp(`^${SLOT[index]} keeps its state, since nothing resets it: `))
    assert.deepEqual(plan(THREE, SLOT.slice(0, 2), { reset: 'none' }).warnings, [])
  })

  it('changes nothing about a device that is bound already, but resets it', () => {
    const bound = plan(BOUND, [NVME])
    assert.deepEqual(bound.toBind, [])
    assert.deepEqual(short(bound), [`reset ${bound.paths.dev}/vfio/10 function`])
    assert.deepEqual(plan(BOUND, [NVME], { reset: 'none' }).steps, [])
  })

  it('takes the variant driver that claims the device, the one that is named, and keeps a bound device on its own', () => {
    const aliases = ['alias vfio_pci:v0000144Dd0000A808sv*sd*bc*sc*i* some_vfio_pci']
    const host = { ...SINGLE, aliases }
    const trees = makeKernelHost(host, { drivers: ['vfio-pci', 'some_vfio_pci'] })
    assert.equal(planOn(trees, [NVME]).devices[0]?.driver, 'some_vfio_pci')
    assert.equal(planOn(trees, [NVME], { driver: 'auto' }).devices[0]?.driver, 'some_vfio_pci')
    const named = planOn(trees, [NVME], { driver: 'vfio-pci', reset: 'none' })
    assert.deepEqual(short(named), [
      `write devices/${NVME}/driver_override vfio-pci`,
      `write devices/${NVME}/driver/unbind ${NVME}`,
      `write drivers_probe ${NVME}`,
    ])
    const onPlain = but(host, NVME, { driver: 'vfio-pci', files: { enable: '0\n' } })
    assert.deepEqual(plan(onPlain, [NVME]).toBind, [])
    assert.equal(plan(onPlain, [NVME]).devices[0]?.driver, 'vfio-pci')
    const moved = planOn(makeKernelHost(onPlain, { drivers: ['vfio-pci', 'some_vfio_pci'] }), [NVME], {
      driver: 'some_vfio_pci',
      reset: 'none',
    })
    assert.deepEqual(moved.toBind, [NVME])
    assert.deepEqual(short(moved), [
      `write devices/${NVME}/driver_override some_vfio_pci`,
      `write devices/${NVME}/driver/unbind ${NVME}`,
      `write drivers_probe ${NVME}`,
    ])
  })

  it('loads a driver that is not there, by the program that the kernel itself uses', () => {
    const host = { ...SINGLE, modules: { ...READY_MODULES, vfio_pci: { state: 'loadable' } } } as const
    const trees = makeKernelHost(host, { drivers: [] })
    const { steps, blockers } = planOn(trees, [NVME])
    assert.deepEqual(blockers, [])
    assert.equal(steps[0]?.action, 'load')
    assert.equal(steps[0]?.path, '/sbin/modprobe')
    assert.equal(steps[0]?.value, 'vfio-pci')
    assert.equal(steps[0]?.address, null)
    writeFileSync(`${trees.proc}/sys/kernel/modprobe`, '/usr/bin/true\n')
    assert.equal(planOn(trees, [NVME]).steps[0]?.path, '/usr/bin/true')
    const { vfio_pci: _none, ...others } = READY_MODULES
    const without = makeKernelHost({ ...SINGLE, modules: others }, { drivers: [] })
    assert.deepEqual(reasons(planOn(without, [NVME])), [
      'ERR_VFIO_NO_DRIVER this kernel has no module vfio-pci: "vfio doctor" tells what to install',
    ])
  })

  it('with ids: says which others are grabbed at once or later, and spares those with an override', () => {
    const ids = plan(TWINS, ['03:00.0'], { ids: true, reset: 'none' })
    assert.deepEqual(ids.blockers, [])
    assert.deepEqual(short(ids), [
      'write devices/0000:03:00.0/driver/unbind 0000:03:00.0',
      'write drivers/vfio-pci/new_id 8086 1533',
      'write drivers_probe 0000:03:00.0',
    ])
    assert.deepEqual(ids.warnings, [
      '0000:04:00.0 has the ids 8086:1533 too, so vfio-pci takes it at once',
      '0000:05:00.0 has the ids 8086:1533 too, so vfio-pci takes it as soon as igb lets it go',
    ])
    assert.deepEqual(ids.grabbed, [
      { address: '0000:04:00.0', group: 31, driver: 'vfio-pci', former: { driver: null, override: null } },
    ])
    assert.deepEqual(ids.basis, [
      { address: '0000:03:00.0', driver: 'igb', override: null, ids: '8086:1533' },
      { address: '0000:04:00.0', driver: null, override: null, ids: '8086:1533' },
    ])
    assert.deepEqual(ids.ids, ['8086 1533'])
    // Its override would keep the driver away, ids or not.
    assert.deepEqual(short(plan(TWINS, ['06:00.0'], { ids: true, reset: 'none' })), [
      'write devices/0000:06:00.0/driver_override vfio-pci',
      'write drivers/vfio-pci/new_id 8086 1533',
      'write drivers_probe 0000:06:00.0',
    ])
    const both = plan(TWINS, ['03:00.0', '05:00.0'], { ids: true, reset: 'none' })
    assert.deepEqual(both.ids, ['8086 1533'])
    assert.deepEqual(both.grabbed.length, 1)
  })

  describe('what stands in the way', () => {
    it('bridges, devices without a group, physical functions with virtual ones, drivers that are none of VFIO', () => {
      const bridge = plan(SINGLE, ['00:01.0'])
      assert.deepEqual([bridge.devices, bridge.steps], [[], []])
      assert.match(reasons(bridge).join(), /^ERR_VFIO_NOT_VIABLE 0000:00:01.0 is a bridge/)
      const { group: _group, ...loose } = present(SINGLE.devices?.[1])
      const lonely = plan({ devices: [loose] }, [NVME])
      assert.deepEqual(lonely.devices, [])
      assert.match(reasons(lonely).join(), /^ERR_VFIO_NOT_VIABLE .* is in no IOMMU group/)
      const sriov: HostDescription = {
        devices: [
          { address: '0000:09:00.0', driver: 'igb', group: 1, totalVfs: 7 },
          { address: '0000:09:10.0', physfn: '0000:09:00.0', group: 2 },
        ],
      }
      assert.match(
        reasons(plan(sriov, ['09:00.0'])).join('\n'),
        /^ERR_VFIO_NOT_VIABLE 0000:09:00.0 has 1 virtual functions? enabled/m,
      )
      assert.deepEqual(plan(sriov, ['09:10.0']).blockers, [])
      assert.deepEqual(reasons(plan(SINGLE, [NVME], { driver: 'nvme' })), [
        'ERR_VFIO_BAD_ARGUMENT nvme is not a VFIO driver: take vfio-pci or a variant of it',
      ])
    })

    it('uses that block, unless their kind is forced', () => {
      const host = but(SINGLE, NVME, { class: 0x030000, bootVga: true })
      const trees = makeKernelHost(host)
      mkdirSync(`${trees.sysfs}/class/vtconsole/vtcon0`, { recursive: true })
      writeFileSync(`${trees.sysfs}/class/vtconsole/vtcon0/name`, '(S) VGA+\n')
      writeFileSync(`${trees.sysfs}/class/vtconsole/vtcon0/bind`, '1\n')
      const refused = planOn(trees, [NVME])
      assert.deepEqual(reasons(refused), [
        'ERR_VFIO_IN_USE the boot display shows the terminals of the host (VGA+): free it first, or accept the loss with --force display',
      ])
      assert.equal(refused.steps.length, 4, 'a person sees what it would have done')
      assert.equal(planOn(trees, [NVME], { force: ['mount', 'network'] }).blockers.length, 1)
      const forced = planOn(trees, [NVME], { force: ['display'] })
      assert.deepEqual(forced.blockers, [])
      assert.deepEqual(forced.uses, refused.uses)
    })

    it('a program that has it open through VFIO, by name and pid, whatever is forced', () => {
      const trees = makeKernelHost(BOUND)
      holder(trees, 'vfio/10')
      const every = ['vfio', 'mount', 'swap', 'holder', 'network', 'display', 'other'] as const
      for (const options of [{}, { force: every }]) {
        const [blocker] = planOn(trees, [NVME], options).blockers
        assert.equal(blocker?.code, 'ERR_VFIO_IN_USE')
        assert.match(blocker.reason, /group 10 is open in .*guest of mine.*4242/)
        assert.match(blocker.reason, /unbinding it would hang/)
        assert.doesNotMatch(blocker.reason, /--force/)
      }
    })
  })

  it('is pure: a frozen host, the same plan again, no look at the tree and no change to it', () => {
    const trees = makeKernelHost(TWINS)
    const seen = new Host(trees).snapshot()
    const before = photograph(`${trees.sysfs}/..`)
    const first = planAssignment(seen, ['03:00.0'], { ids: true })
    assert.deepEqual(photograph(`${trees.sysfs}/..`), before)
    removeDirectories()
    const options = Object.freeze({ ids: true, force: Object.freeze([]) })
    assert.deepEqual(planAssignment(seen, Object.freeze(['03:00.0']), options), first)
    assert.deepEqual(JSON.parse(JSON.stringify(first)), JSON.parse(JSON.stringify(first)))
    assert.deepEqual(structuredClone(first), first, 'plain data')
  })

  it('throws for addresses that are none and devices that are not there, and for nothing else', () => {
    const seen = new Host(makeKernelHost(SINGLE)).snapshot()
    const code = (address: string) => {
      try {
        planAssignment(seen, [address])
      } catch (error) {
        assert.ok(error instanceof VfioError)
        return error.code
      }
      return 'none'
    }
    assert.equal(code('0000:01:00.9'), 'ERR_VFIO_BAD_ADDRESS')
    assert.equal(code('../../etc'), 'ERR_VFIO_BAD_ADDRESS')
    assert.equal(code('0000:07:00.0'), 'ERR_VFIO_NO_DEVICE')
    assert.equal(code('100:00.0'), 'ERR_VFIO_BAD_ADDRESS')
    assert.equal(code('01:00.0'), 'none')
    assert.deepEqual(planAssignment(seen, []).steps, [])
  })

  it('is total over hosts of every kind', function () {
    this.timeout(60_000)
    const driver = fc.option(
      fc.constantFrom('nvme', 'vfio-pci', 'pci-stub', 'pcieport', 'mlx5_vfio_pci', 'uio_pci_generic', 'a b'),
      { nil: undefined },
    )
    const device = fc.record(
      {
        vendor: fc.constantFrom(0x8086, 0x10de),
        device: fc.constantFrom(0x1533, 0x2204),
        class: fc.constantFrom(0x020000, 0x030000, 0x060400, 0x010802),
        driver,
        driverOverride: driver,
        group: fc.option(fc.nat(3), { nil: undefined }),
        headerType: fc.constantFrom('normal', 'normal', 'bridge', 'cardbus'),
        secondaryBus: fc.nat(2),
        multifunction: fc.boolean(),
        resetMethod: fc.constantFrom('flr', 'bus', 'pm', 'flr bus', ''),
        totalVfs: fc.nat(2),
        bootVga: fc.boolean(),
      },
      { requiredKeys: [] },
    )
    const hosts = fc.record({
      kernel: fc.constantFrom('5.10.0', '6.1.0', '6.12.0', null),
      iommu: fc.constantFrom('intel', 'amd', 'none'),
      devices: fc.array(device, { maxLength: 6 }).map((devices) =>
        devices.map((description, index) => {
          const bus = index % 3
          const address = `0000:0${bus}:0${index >> 1}.${index & 1}`
          const given = Object.entries(description).filter(([, value]) => value !== undefined)
          // A tree of directories cannot hold a bus that is below itself.
          const { secondaryBus = 0 } = description
          return {
            address,
            ...Object.fromEntries(given),
            secondaryBus: secondaryBus > bus ? secondaryBus : 0,
          }
        }),
      ),
      groups: fc.constantFrom({}, { 1: { noIommu: true } }, { 2: { reservedRegions: '0x0 0xfff direct\n' } }),
    })
    const options = fc.record(
      {
        driver: fc.constantFrom('auto', 'vfio-pci', 'nvme', '', '../x'),
        group: fc.boolean(),
        ids: fc.boolean(),
        reset: fc.constantFrom('none', 'before', 'before-and-after'),
        force: fc.constantFrom(['display'], ['vfio'], []),
      },
      { requiredKeys: [] },
    )
    let planned = 0
    fc.assert(
      fc.property(hosts, options, fc.array(fc.nat(6), { maxLength: 3 }), (described, wanted, picks) => {
        const trees = makeKernelHost(described as HostDescription)
        const addresses = picks.map((pick) => described.devices[pick]?.address ?? '0000:ff:00.0')
        const seen = new Host(trees).snapshot()
        try {
          const result = planAssignment(seen, addresses, wanted as PlanOptions)
          planned++
          assert.deepEqual(planAssignment(seen, addresses, wanted as PlanOptions), result)
          for (const { path, action } of result.steps)
            if (action === 'write') assert.ok(path.startsWith(`${trees.sysfs}/bus/pci/`))
          for (const address of result.toBind)
            assert.ok(result.devices.some((member) => member.address === address))
          for (const { code, reason } of result.blockers) assert.ok(code.startsWith('ERR_') && reason !== '')
        } catch (error) {
          assert.ok(error instanceof VfioError, String(error))
          assert.ok(['ERR_VFIO_BAD_ADDRESS', 'ERR_VFIO_NO_DEVICE'].includes(error.code), error.message)
        } finally {
          removeDirectories()
        }
      }),
      { numRuns: runs(150) },
    )
    assert.ok(planned > runs(150) / 10, 'most of what is generated is planned')
  })
})
