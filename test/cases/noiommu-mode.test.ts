import assert from 'node:assert/strict'
import { join } from 'node:path'
import {
  type AssignOptions,
  assess,
  assign,
  exportQemu,
  Host,
  openDevice,
  type PersistOptions,
  type PersistPlan,
  planAssignment,
  planPersistence,
  recover,
  release,
  survey,
  type VfioError,
} from 'vfio'
import {
  type DeviceDescription,
  type HostDescription,
  type HostTrees,
  type ModuleDescription,
  READY_MODULES,
  removeDirectories,
} from '../fixtures/host.js'
import {
  ARM_CPU,
  checkOf,
  interrupts,
  makePlatform,
  type PlatformDescription,
  seePlatform,
} from '../fixtures/platform.js'
import { type Faults, makeKernelHost, photograph, SimulatedKernel } from '../unit/assign-kernel.js'
import { present } from '../unit/support.js'

/** Reported by k8snetworkplumbingwg/sriov-network-device-plugin#272, rust-vmm/vfio#152 and DPDK users: a VM without an IOMMU. */
const NIC = '0000:00:06.0'
const MODE_ON: Record<string, ModuleDescription> = {
  ...READY_MODULES,
  vfio: { state: 'loaded', parameters: { enable_unsafe_noiommu_mode: 'Y' } },
}
const CLOUD: HostDescription = {
  kernel: '6.8.0-45-generic',
  iommu: 'none',
  modules: MODE_ON,
  devices: [
    {
      address: NIC,
      vendor: 0x1d0f,
      device: 0xec20,
      class: 0x020000,
      driver: 'ena',
      resetMethod: 'flr',
      capabilities: [{ kind: 'pcie', flr: true }],
      files: { enable: '0\n' },
    },
  ],
}
const [ENA] = CLOUD.devices ?? []
const RISK = /all memory of this host.*only root.*no VM/
/** Somebody has said that he wants it. */
const SAID = { noIommu: true } as const
const NEW = { number: 3, noIommu: true } as const

const using = (trees: HostTrees, faults: Faults): AssignOptions & { kernel: SimulatedKernel } => ({
  kernel: new SimulatedKernel(trees, faults),
  journal: join(trees.sysfs, '..', 'journal'),
})

describe('the no-IOMMU mode', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  const bound: HostDescription = {
    ...CLOUD,
    devices: [{ ...present(ENA), driver: 'vfio-pci', group: 3 }],
    groups: { 3: { noIommu: true, reservedRegions: '' } },
  }

  it('makes a function bindable on demand, with its risk said (drivers/vfio/group.c: vfio_group_find_or_alloc)', () => {
    const seen = seePlatform(CLOUD)
    const { verdict, reason, toBind, noIommu, viability, group } = assess(seen, NIC)
    assert.deepEqual(
      { verdict, toBind, noIommu, viability, group },
      {
        verdict: 'bindable',
        toBind: [NIC],
        noIommu: true,
        viability: null,
        group: null,
      },
    )
    assert.match(reason, RISK)
    const plan = planAssignment(seen, [NIC], SAID)
    assert.deepEqual(plan.blockers, [])
    assert.match(plan.warnings.join(), RISK)
    assert.deepEqual(
      plan.steps.map(({ action, value }) => [action, value]),
      [
        ['load', 'vfio-pci'],
        ['write', 'vfio-pci'],
        ['write', NIC],
        ['write', NIC],
        ['reset', 'function'],
      ],
    )
    assert.equal(survey(seen).devices[0]?.verdict, 'bindable')
  })

  it('binds nothing for who has not said that he wants it, bound already or not', () => {
    for (const host of [CLOUD, bound]) {
      const { blockers, warnings } = planAssignment(seePlatform(host), [NIC])
      assert.deepEqual(
        blockers.map(({ address, code }) => [address, code]),
        [[NIC, 'ERR_VFIO_NOT_VIABLE']],
      )
      assert.match(blockers[0]?.reason ?? '', RISK)
      assert.match(blockers[0]?.reason ?? '', /say so with --noiommu$/)
      assert.doesNotMatch(warnings.join(), RISK)
    }
  })

  it('is nothing that `--noiommu` switches on: it says how, and the risk', () => {
    const reasonOn = (host: HostDescription) =>
      planAssignment(seePlatform(host), [NIC], SAID)
        .blockers.map(({ reason }) => reason)
        .join()
    const off: Record<string, ModuleDescription> = {
      ...READY_MODULES,
      vfio: { state: 'loaded', parameters: { enable_unsafe_noiommu_mode: 'N' } },
    }
    const reason = reasonOn({ ...CLOUD, modules: off })
    assert.match(reason, /echo 1 > \S+\/module\/vfio\/parameters\/enable_unsafe_noiommu_mode/)
    assert.match(reason, RISK)
    assert.match(reasonOn({ ...CLOUD, modules: {} }), /modprobe vfio enable_unsafe_noiommu_mode=1/)
    const without: Record<string, ModuleDescription> = { ...READY_MODULES, vfio: { state: 'loaded' } }
    assert.match(reasonOn({ ...CLOUD, modules: without }), /has no no-IOMMU mode \(CONFIG_VFIO_NOIOMMU\)/)
    // Without the word nothing of it is said: an IOMMU is the cure.
    const plain = planAssignment(seePlatform({ ...CLOUD, modules: off }), [NIC]).blockers
    assert.doesNotMatch(plain.map((one) => one.reason).join(), /enable_unsafe/)
    // What an IOMMU covers is bound as ever.
    const covered = { ...CLOUD, iommu: 'intel', devices: [{ ...present(ENA), group: 4 }] } as const
    assert.deepEqual(planAssignment(seePlatform(covered), [NIC], SAID).blockers, [])
  })

  it('makes the diagnosis warn, and not fail; type1 is not needed (drivers/vfio/container.c: vfio_noiommu_ops)', () => {
    const { vfio_iommu_type1: _, ...modules } = MODE_ON
    const seen = seePlatform({ ...CLOUD, modules })
    const iommu = checkOf(seen, 'iommu')
    assert.deepEqual([iommu.status, iommu.ready], ['warn', true])
    assert.match(iommu.detail, RISK)
    assert.match(iommu.cure, /^to be safe, /)
    assert.equal(checkOf(seen, 'groups').status, 'warn')
    assert.match(checkOf(seen, 'module vfio_iommu_type1').detail, /not needed/)
  })

  it('leaves functions blocked while it is off, or not known to be on', () => {
    assert.equal(assess(seePlatform({ ...CLOUD, modules: READY_MODULES }), NIC).verdict, 'blocked')
    assert.equal(assess(seePlatform({ ...CLOUD, modules: {} }), NIC).verdict, 'blocked')
    const asked = 'vfio.enable_unsafe_noiommu_mode=1'
    const off = seePlatform({ ...CLOUD, modules: READY_MODULES, commandLine: asked })
    assert.equal(assess(off, NIC).verdict, 'blocked')
    // Which a module takes from there as it is loaded (modprobe.d(5), kernel-parameters.txt).
    assert.equal(assess(seePlatform({ ...CLOUD, modules: {}, commandLine: asked }), NIC).noIommu, true)
  })

  it('takes no bridge and none of the denylist, and a function that an IOMMU covers as ever', () => {
    const seen = seePlatform({
      ...CLOUD,
      iommu: 'intel',
      devices: [
        { address: '0000:00:01.0', headerType: 'bridge', secondaryBus: 1 },
        { address: '0000:00:07.0', vendor: 0x8086, device: 0x37c8 },
        { address: '0000:00:08.0', group: 4 },
        { address: '0000:00:09.0' },
      ],
    })
    assert.match(assess(seen, '0000:00:01.0').reason, /is a bridge/)
    assert.match(assess(seen, '0000:00:07.0').reason, /denylist/)
    assert.deepEqual(Object.hasOwn(assess(seen, '0000:00:08.0'), 'noIommu'), false)
    // Which the kernel gives a group of its own, beside an active IOMMU.
    assert.equal(assess(seen, '0000:00:09.0').noIommu, true)
  })

  it('is told of a bound function by its group, also in brief and after the mode was switched off', () => {
    for (const modules of [MODE_ON, READY_MODULES]) {
      const trees = makePlatform({ ...bound, modules })
      for (const brief of [false, true]) {
        const seen = new Host(trees).snapshot({ brief })
        assert.equal(seen.group(3).noIommu, true)
        const { verdict, reason, noIommu } = assess(seen, NIC)
        assert.deepEqual([verdict, noIommu], ['ready', true])
        assert.match(reason, RISK)
        assert.equal(seen.host.iommu.present, false)
      }
    }
  })

  it('gives no device to a VM, and the export says so (its Kconfig: "not possible with this mode")', () => {
    assert.match(exportQemu(seePlatform(bound), [NIC]).notes.join(), /no device to a VM/)
    assert.match(exportQemu(seePlatform(CLOUD), [NIC]).notes.join(), /no device to a VM/)
  })

  it('lasts over boot by the parameter of vfio, with the risk said (drivers/vfio/vfio_main.c: vfio_noiommu)', () => {
    const line = 'options vfio enable_unsafe_noiommu_mode=1'
    const plan = (host: HostDescription, options: PersistOptions = {}) =>
      planPersistence(seePlatform(host), [NIC], options)
    const linesOf = ({ files }: PersistPlan) => files.flatMap(({ content }) => content.split('\n'))
    for (const host of [CLOUD, bound]) {
      assert.match(
        plan(host)
          .blockers.map(({ reason }) => reason)
          .join(),
        /all memory of this host.*--noiommu/,
      )
      const asked = plan(host, { moduleOptions: ['enable_unsafe_noiommu_mode=1'] })
      assert.deepEqual(asked.blockers, [])
      const made = plan(host, SAID)
      assert.deepEqual(made.blockers, [])
      assert.equal(linesOf(made).filter((one) => one === line).length, 1)
      assert.match(made.warnings.join(), /enable_unsafe_noiommu_mode=1: .*all memory of the host/)
    }
    // What an IOMMU covers needs no such mode, and who says otherwise is heard.
    const covered = { ...CLOUD, iommu: 'intel', devices: [{ ...present(ENA), group: 4 }] } as const
    assert.ok(!linesOf(plan(covered)).includes(line))
    const off = plan(CLOUD, { moduleOptions: ['enable_unsafe_noiommu_mode=0'] })
    assert.ok(!linesOf(off).includes(line))
    // Built in, it reads the kernel command line alone.
    const vfio = { state: 'builtin', parameters: { enable_unsafe_noiommu_mode: 'Y' } } as const
    const builtin = plan({ ...CLOUD, modules: { ...MODE_ON, vfio } })
    assert.ok(!linesOf(builtin).includes(line))
    const added = builtin.commandLine?.add.map(({ parameter }) => parameter) ?? []
    assert.ok(added.includes('vfio.enable_unsafe_noiommu_mode=1'))
  })

  it('resets by the node of its group, whose name is another', () => {
    const { steps } = planAssignment(seePlatform(bound), [NIC], { ...SAID, reset: 'before' })
    assert.match(present(steps.find(({ action }) => action === 'reset')).path, /\/vfio\/noiommu-3$/)
  })

  it('is left by release as it was found, and the record knows the group that came and went', async () => {
    const trees = makeKernelHost(CLOUD)
    const before = photograph(trees.sysfs)
    const options = using(trees, { newGroup: NEW })
    const assignment = await assign(planAssignment(new Host(trees).snapshot(), [NIC], SAID), options)
    assert.deepEqual(
      assignment.devices.map(({ address, group }) => [address, group]),
      [[NIC, 3]],
    )
    const seen = new Host(trees).snapshot()
    assert.deepEqual([assess(seen, NIC).verdict, assess(seen, NIC).noIommu], ['ready', true])
    await release([NIC], options)
    assert.deepEqual(photograph(trees.sysfs), before)
  })

  it('refuses a release while somebody has the group open', async () => {
    const trees = makeKernelHost(CLOUD)
    const options = using(trees, { newGroup: NEW })
    await assign(planAssignment(new Host(trees).snapshot(), [NIC], SAID), options)
    options.kernel.open.add(3)
    await assert.rejects(release([NIC], options), (error: VfioError) => error.code === 'ERR_VFIO_IN_USE')
    options.kernel.open.clear()
    await release([NIC], options)
  })

  it('is undone whatever step fails, also where the record does not know the group yet', async () => {
    const plan = (trees: HostTrees) => planAssignment(new Host(trees).snapshot(), [NIC], SAID)
    const count = plan(makeKernelHost(CLOUD)).steps.length
    for (let failing = 0; failing < count; failing++) {
      const trees = makeKernelHost(CLOUD)
      const before = photograph(trees.sysfs)
      const at = (index: number) => (index === failing ? 'lie' : null)
      await assert.rejects(
        assign(plan(trees), using(trees, { newGroup: NEW, at })),
        /everything was put back/,
      )
      assert.deepEqual(photograph(trees.sysfs), before, `step ${failing}`)
      assert.deepEqual((await recover(using(trees, { newGroup: NEW }))).recovered, [])
    }
  })

  it('is not unbound while its group is open, also where the record does not know the group yet', async () => {
    const trees = makeKernelHost(CLOUD)
    const before = photograph(trees.sysfs)
    const options = using(trees, { newGroup: NEW })
    const abort = new AbortController()
    const onChange = (change: string) => {
      if (!change.includes('drivers_probe')) return
      options.kernel.open.add(NEW.number)
      abort.abort()
    }
    const plan = planAssignment(new Host(trees).snapshot(), [NIC], SAID)
    await assert.rejects(
      assign(plan, { ...options, signal: abort.signal, onChange }),
      /is open, and unbinding it would hang/,
    )
    options.kernel.open.clear()
    assert.deepEqual((await recover(options)).recovered, [NIC])
    assert.deepEqual(photograph(trees.sysfs), before)
  })

  it('is what openDevice asks for before a function is bound', async () => {
    await assert.rejects(openDevice(NIC, { seen: seePlatform(CLOUD) }), (error: VfioError) => {
      assert.equal(error.code, 'ERR_VFIO_NO_GROUP')
      assert.match(error.message, /vfio bind 0000:00:06\.0.*all memory/)
      return true
    })
    const off = seePlatform({ ...CLOUD, modules: READY_MODULES })
    await assert.rejects(openDevice(NIC, { seen: off }), /vfio doctor/)
  })
})

/** Seen with Debian's 6.12 for arm64 under QEMU; drivers/pci/pci-driver.c: pci_dma_configure, 6.12; iommu_init_device, 6.15. */
describe('an endpoint that gets its group when it is bound', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  const PORT = '0000:00:01.0'
  const NVME = '0000:01:00.0'
  const ARM: PlatformDescription = {
    kernel: '6.12.9-arm64',
    iommu: 'arm',
    devices: [
      {
        address: PORT,
        headerType: 'bridge',
        secondaryBus: 1,
        driver: 'pcieport',
        group: 0,
        capabilities: [{ kind: 'pcie', type: 'root-port' }],
      },
      { address: NVME, class: 0x010802, files: { enable: '0\n' } },
    ],
    files: {
      'proc/cpuinfo': ARM_CPU,
      'proc/interrupts': interrupts(' 50: 0 1 ITS-PCI-MSI-0000:00:01.0 0 Edge PCIe PME'),
    },
  }

  it('is bindable, and what it shares its group with is said to be unknown', () => {
    const { verdict, reason, toBind, viability } = assess(seePlatform(ARM), NVME)
    assert.deepEqual([verdict, toBind, viability], ['bindable', [NVME], null])
    assert.match(reason, /if an IOMMU covers it: .*known only then/)
    assert.deepEqual(planAssignment(seePlatform(ARM), [NVME]).blockers, [])
  })

  /** drivers/iommu/arm/arm-smmu-v3: arm_smmu_insert_master, 6.12; seen with two devices behind a pcie-pci-bridge of QEMU. */
  it('gets none where the SMMU takes it for another one behind the same conventional bridge', () => {
    const BRIDGE = '0000:02:00.0'
    const SECOND = '0000:03:02.0'
    const behind = (first: Partial<DeviceDescription>): PlatformDescription => ({
      ...ARM,
      devices: [
        { address: '0000:00:01.0', headerType: 'bridge', secondaryBus: 2, driver: 'pcieport', group: 0 },
        {
          address: BRIDGE,
          headerType: 'bridge',
          secondaryBus: 3,
          capabilities: [{ kind: 'pcie', type: 'pcie-to-pci-bridge' }],
        },
        { address: '0000:03:01.0', ...first },
        { address: SECOND },
      ],
    })
    const { verdict, reason } = assess(seePlatform(behind({ driver: 'virtio-pci', group: 0 })), SECOND)
    assert.equal(verdict, 'blocked')
    assert.match(reason, /behind the bridge 0000:02:00\.0 the SMMU cannot tell it from 0000:03:01\.0/)
    assert.equal(assess(seePlatform(behind({})), SECOND).verdict, 'bindable')
  })

  const blocked: readonly (readonly [what: string, host: PlatformDescription])[] = [
    ['since 6.15, where the group is there from the start', { kernel: '6.15.1' }],
    ['of a kernel that is not known', { kernel: null }],
    ['that had its chance: it has a driver', { devices: [{ address: NVME, driver: 'nvme' }] }],
    ['on x86, whose tables are read at boot', { iommu: 'intel', files: {} }],
    [
      'below a host bridge that is not covered, as others of it tell',
      { devices: [{ address: NVME }, { address: '0000:02:00.0', driver: 'igb' }] },
    ],
    ['without an IOMMU', { iommu: 'none' }],
  ]
  for (const [what, host] of blocked) {
    it(`is not one ${what}`, () => {
      assert.equal(assess(seePlatform({ ...ARM, ...host }), NVME).verdict, 'blocked')
    })
  }

  it('is one below virtio-iommu too, which VIOT or the device tree describes (drivers/acpi/viot.c)', () => {
    assert.equal(assess(seePlatform({ ...ARM, iommu: 'virtio' }), NVME).verdict, 'bindable')
  })

  it('is one although the virtio-iommu, which is in no group, has a driver', () => {
    const seen = seePlatform({
      ...ARM,
      iommu: 'virtio',
      devices: [{ address: NVME }, { address: '0000:00:02.0', driver: 'virtio-pci' }],
    })
    assert.equal(assess(seen, NVME).verdict, 'bindable')
  })

  describe('behind a conventional bridge', () => {
    const BRIDGE = { address: '0000:00:03.0', headerType: 'bridge', secondaryBus: 3 } as const
    const SOUND = { address: '0000:03:01.0', driver: 'snd_hda_intel' } as const
    const devices = [...(ARM.devices ?? []), BRIDGE]

    it('is none for virtio-iommu (QEMU, hw/virtio/virtio-iommu.c: virtio_iommu_probe)', () => {
      const seen = seePlatform({ ...ARM, iommu: 'virtio', devices: [...devices, { address: SOUND.address }] })
      const { verdict, reason } = assess(seen, SOUND.address)
      assert.equal(verdict, 'blocked')
      assert.match(reason, /behind a conventional PCI bridge/)
      assert.equal(assess(seen, NVME).verdict, 'bindable')
    })

    it('tells of others there alone: they reach the IOMMU by the number of the bridge', () => {
      const others = [SOUND, { address: '0000:03:02.0' }]
      const seen = seePlatform({ ...ARM, devices: [...devices, ...others] })
      assert.equal(assess(seen, '0000:03:02.0').verdict, 'blocked')
      assert.equal(assess(seen, NVME).verdict, 'bindable')
      const free = seePlatform({ ...ARM, devices: [...devices, { address: '0000:03:02.0' }] })
      assert.equal(assess(free, '0000:03:02.0').verdict, 'bindable')
    })
  })

  it('is judged by the interrupts of the host all the same', () => {
    const open = interrupts(' 50: 0 1 GICv2m-PCI-MSI-0000:00:01.0 0 Edge PCIe PME')
    const files = { ...ARM.files, 'proc/interrupts': open }
    assert.match(assess(seePlatform({ ...ARM, files }), NVME).reason, /ITS/)
  })

  it('makes the diagnosis warn where no function has a group yet', () => {
    const seen = seePlatform({ ...ARM, devices: [{ address: NVME }] })
    const { status, detail, ready } = checkOf(seen, 'groups')
    assert.deepEqual([status, ready], ['warn', true])
    assert.match(detail, /only when a driver binds/)
  })

  it('is looked at again once bound: others in its group put everything back', async () => {
    const { files: _, ...host } = ARM
    const others: HostDescription = {
      ...host,
      // By its release alone, since only sysfs is simulated.
      devices: [...(host.devices ?? []), { address: '0000:01:00.1', driver: 'snd_hda_intel', group: 9 }],
    }
    const trees = makeKernelHost(others)
    const plan = planAssignment(new Host(trees).snapshot(), [NVME])
    const alone = await assign(plan, using(trees, { newGroup: { number: 12, noIommu: false } }))
    assert.deepEqual(
      alone.devices.map(({ group }) => group),
      [12],
    )

    const shared = makeKernelHost({
      ...others,
      devices: [...(host.devices ?? []), { address: '0000:01:00.1', driver: 'snd_hda_intel', group: 12 }],
    })
    await assert.rejects(
      assign(
        planAssignment(new Host(shared).snapshot(), [NVME]),
        using(shared, { newGroup: { number: 12, noIommu: false } }),
      ),
      /came into group 12 when it was bound, .*0000:01:00\.1.*everything was put back/,
    )
  })

  it('is put back where it gets one without an IOMMU, and nobody has said that he wants that', async () => {
    const { files: _, ...host } = ARM
    for (const said of [false, true]) {
      const trees = makeKernelHost({ ...host, modules: MODE_ON })
      const before = photograph(trees.sysfs)
      const plan = planAssignment(new Host(trees).snapshot(), [NVME], { noIommu: said, reset: 'none' })
      assert.deepEqual(plan.blockers, [])
      const options = using(trees, { newGroup: NEW })
      if (said) {
        assert.equal((await assign(plan, options)).devices[0]?.group, 3)
        continue
      }
      await assert.rejects(assign(plan, options), /without an IOMMU.*--noiommu.*everything was put back/)
      assert.deepEqual(photograph(trees.sysfs), before)
    }
  })

  it('is refused by vfio-pci where no IOMMU covers it after all, and put back', async () => {
    const { files: _, ...host } = ARM
    const trees = makeKernelHost(host)
    const before = photograph(trees.sysfs)
    const plan = planAssignment(new Host(trees).snapshot(), [NVME])
    await assert.rejects(assign(plan, using(trees, {})), /everything was put back/)
    assert.deepEqual(photograph(trees.sysfs), before)
  })
})
