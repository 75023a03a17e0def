import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  agreesWithKernel,
  assess,
  assessGroup,
  assessReset,
  assessViability,
  assign,
  createMdev,
  exportCloudHypervisor,
  exportLibvirt,
  exportQemu,
  grantRule,
  Host,
  mdevTypes,
  parseName,
  planAssignment,
  planMdev,
  planPersistence,
  recover,
  release,
  removeMdev,
  type Snapshot,
  status,
  survey,
  VfioError,
} from 'vfio'
import {
  type HostDescription,
  type HostTrees,
  type MdevParentDescription,
  makeHost,
  removeDirectories,
  temporaryDirectory,
} from '../fixtures/host.js'
import { Tree } from '../fixtures/tree.js'
import { UsedHost } from '../fixtures/uses.js'
import { journalOf } from './assign-hosts.js'
import { kernelOf } from './mdev-kernel.js'
import { present, ROOT, see } from './support.js'

const ONE = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001'
const TWO = 'fff6f017-3417-4ad3-b05e-17ae3e1a4615'
const NEW = 'a297db4a-f4c2-11e6-90f6-d3b88d6c9525'
const IGPU = '0000:00:02.0'

/** Intel's GVT-g, as intel/gvt-linux#122 and #202 show it: no names, one property of a type in each line. */
const gvt = (devices: MdevParentDescription['devices'] = []): MdevParentDescription => ({
  name: IGPU,
  types: [
    {
      id: 'i915-GVTg_V5_4',
      available: 1 - devices.length,
      description: 'low_gm_size: 128MB\nhigh_gm_size: 512MB\nfence: 4\nresolution: 1920x1200\nweight: 4',
    },
    { id: 'i915-GVTg_V5_8', available: 2 - 2 * devices.length },
  ],
  devices,
})
const IGPU_DEVICE = { address: IGPU, class: 0x030000, driver: 'i915', group: 1 } as const
const vgpu = { uuid: ONE, type: 'i915-GVTg_V5_4', group: 12, driver: 'intel_vgpu_mdev', vfioDevice: 'vfio3' }

/** NVIDIA's vGPU, as mdevctl/mdevctl#115 shows it. */
const NVIDIA: HostDescription = {
  kernel: '5.15.0-91-generic',
  devices: [{ address: '0000:02:00.0', class: 0x030200, vendor: 0x10de, driver: 'nvidia', group: 20 }],
  mdev: [
    {
      name: '0000:02:00.0',
      types: [
        {
          id: 'nvidia-156',
          available: 12,
          name: 'GRID P40-2B',
          description:
            'num_heads=4, frl_config=45, framebuffer=2048M, max_resolution=5120x2880, max_instance=12',
        },
        { id: 'nvidia-286', available: 2, name: 'GRID P40-12C' },
      ],
      devices: [{ uuid: TWO, type: 'nvidia-156', group: 50, driver: 'nvidia-vgpu-vfio' }],
    },
  ],
}

/** What Linux on Z makes: a subchannel and a matrix of crypto domains. */
const Z: HostDescription = {
  iommu: 'none',
  devices: [{ address: '0000:00:00.0', group: 0 }],
  mdev: [
    {
      name: '0.0.0313',
      types: [{ id: 'vfio_ccw-io', available: 0, deviceApi: 'vfio-ccw', name: 'I/O subchannel (Non-QDIO)' }],
      devices: [{ uuid: ONE, type: 'vfio_ccw-io', group: 7, driver: 'vfio_ccw_mdev' }],
    },
    {
      name: 'matrix',
      types: [
        { id: 'vfio_ap-passthrough', available: 1, deviceApi: 'vfio-ap', name: 'VFIO AP Passthrough Device' },
      ],
      devices: [{ uuid: TWO, type: 'vfio_ap-passthrough', group: 8, driver: 'vfio_ap_mdev' }],
    },
  ],
}

const GVT: HostDescription = { devices: [IGPU_DEVICE], mdev: [gvt([vgpu])] }
const VIRTUAL: HostDescription = {
  devices: [{ address: '0000:00:03.0', driver: 'vfio-pci', group: 3 }],
  mdev: [
    {
      name: 'mtty',
      types: [{ id: 'mtty-1', available: 24, name: 'Single port serial' }],
      devices: [{ uuid: ONE, type: 'mtty-1', group: 30, driver: 'mtty', vfioDevice: 'vfio7' }],
    },
  ],
}

const isCode =
  (code: string, text = /./) =>
  (error: unknown) =>
    error instanceof VfioError && error.code === code && text.test(error.message)

describe('mediated devices', () => {
  after(removeDirectories)

  describe('are seen', () => {
    it('with the function that carries them, their types and their nodes', () => {
      const seen = see(GVT)
      assert.deepEqual(seen.mediated, [
        {
          uuid: ONE,
          parent: IGPU,
          function: IGPU,
          type: 'i915-GVTg_V5_4',
          deviceApi: 'vfio-pci',
          group: 12,
          driver: 'intel_vgpu_mdev',
          vfioRegistered: true,
          vfioDevice: 'vfio3',
        },
      ])
      const [parent] = seen.mdevParents
      assert.equal(parent?.function, IGPU)
      assert.deepEqual(
        parent?.types.map(({ id, name, available, devices }) => ({ id, name, available, devices })),
        [
          { id: 'i915-GVTg_V5_4', name: null, available: 0, devices: [ONE] },
          { id: 'i915-GVTg_V5_8', name: null, available: 0, devices: [] },
        ],
      )
      assert.deepEqual(
        mdevTypes(see(NVIDIA)).map(({ parent, id, name, available }) => [parent, id, name, available]),
        [
          ['0000:02:00.0', 'nvidia-156', 'GRID P40-2B', 12],
          ['0000:02:00.0', 'nvidia-286', 'GRID P40-12C', 2],
        ],
      )
    })

    it('where their parent is no PCI function, and without an IOMMU', () => {
      const seen = see({ ...Z, iommu: 'none', devices: [] })
      assert.deepEqual(
        seen.mediated.map(({ parent, function: carrier, deviceApi }) => [parent, carrier, deviceApi]),
        [
          ['0.0.0313', null, 'vfio-ccw'],
          ['matrix', null, 'vfio-ap'],
        ],
      )
      assert.deepEqual(
        seen.groups.map(({ group, noIommu, emulated, members }) => ({ group, noIommu, emulated, members })),
        [
          { group: 7, noIommu: false, emulated: true, members: [] },
          { group: 8, noIommu: false, emulated: true, members: [] },
        ],
      )
      assert.equal(seen.host.iommu.present, false, 'no IOMMU speaks for such a group')
    })

    it('around one of them, with the function that carries it and nothing else', () => {
      const trees = makeHost({
        ...GVT,
        devices: [IGPU_DEVICE, { address: '0000:05:00.0', group: 5 }],
        mdev: [gvt([vgpu]), ...(VIRTUAL.mdev ?? []).map((parent) => ({ ...parent, devices: [] }))],
      })
      const around = new Host(trees).snapshot({ around: [ONE] })
      assert.deepEqual(
        around.devices.map(({ address }) => address),
        [IGPU],
      )
      assert.deepEqual(
        around.groups.map(({ group }) => group),
        [1, 12],
      )
      assert.deepEqual(
        around.mdevParents.map(({ name }) => name),
        [IGPU],
      )
      assert.equal(around.mediatedDevice(ONE).group, 12)
      const other = new Host(trees).snapshot({ around: ['05:00.0'] })
      assert.deepEqual([other.mediated, other.mdevParents], [[], []])
    })

    it('in brief without what their types tell', () => {
      const trees = makeHost(GVT)
      const [device] = new Host(trees).snapshot({ brief: true }).mediated
      assert.equal(device?.type, 'i915-GVTg_V5_4')
      assert.equal(device?.deviceApi, null)
    })

    it('by every way in which they are written, and what is none is told', () => {
      const seen = see(GVT)
      const ways = [
        ONE,
        ONE.toUpperCase(),
        `/sys/bus/mdev/devices/${ONE}`,
        `/sys/bus/mdev/devices/${ONE}/`,
        `mdev_${ONE.replaceAll('-', '_')}`,
        `mdev_${ONE.replaceAll('-', '_')}_0000_00_02_0`,
        `<address uuid='${ONE}'/>`,
      ]
      for (const way of ways) assert.equal(seen.mediatedDevice(way).uuid, ONE, way)
      for (const way of ways) assert.equal(parseName(way), ONE, way)
      assert.equal(parseName('00:02.0'), IGPU)
      assert.throws(
        () => parseName('83b8f4f2-509f-382f-3c1e'),
        isCode('ERR_VFIO_BAD_ADDRESS', /not a UUID: expected 32/),
      )
      assert.throws(() => parseName('nonsense'), isCode('ERR_VFIO_BAD_ADDRESS', /not a PCI address/))
      assert.throws(() => seen.mediatedDevice(NEW), isCode('ERR_VFIO_NO_DEVICE', /"vfio mdev list"/))
      assert.throws(
        () => seen.device(ONE),
        isCode('ERR_VFIO_BAD_ADDRESS', /mediated device of 0000:00:02\.0.*PCI functions alone/),
      )
      assert.throws(() => assessReset(seen, ONE), isCode('ERR_VFIO_BAD_ADDRESS'))
    })

    it('whatever hostile drivers call things', () => {
      const trees = makeHost(GVT)
      const tree = new Tree(join(trees.sysfs, '..'))
      const types = `sys/devices/pci0000:00/${IGPU}/mdev_supported_types`
      tree.file(`${types}/evil\u001b[2J/description`, '\u001b]0;x\u0007\n')
      tree.file(`${types}/evil\u001b[2J/available_instances`, '-5\n')
      tree.link('sys/bus/mdev/devices/../devices/not-a-uuid', '../../../devices')
      tree.link(`sys/bus/mdev/devices/${NEW}`, `../../../devices/gone/${NEW}`)
      tree.link('sys/class/mdev_bus/loop', 'loop')
      const seen = new Host(trees).snapshot()
      assert.deepEqual(
        seen.mediated.map(({ uuid }) => uuid),
        [ONE],
      )
      const evil = present(mdevTypes(seen).find(({ id }) => id.startsWith('evil')))
      assert.equal(evil.available, null)
      const { stdout, status: code } = spawnSync(
        process.execPath,
        [join(ROOT, 'bin/vfio.js'), 'mdev', 'list', '--sysfs', trees.sysfs],
        { encoding: 'utf8' },
      )
      assert.equal(code, 0)
      assert.equal(stdout.includes('\u001b'), false)
      assert.match(stdout, /evil\\u001b/)
    })
  })

  describe('are judged', () => {
    it('ready where their driver has given them to VFIO, on all kernels', () => {
      for (const [host, uuid, kernel] of [
        [GVT, ONE, '6.12.0'],
        [NVIDIA, TWO, '5.15.0'],
        [NVIDIA, TWO, '5.10.0'],
        [Z, ONE, '6.8.0'],
        [VIRTUAL, ONE, '6.18.0'],
      ] as const) {
        const seen = see({ ...host, kernel })
        const found = assess(seen, uuid)
        assert.equal(found.verdict, 'ready', found.reason)
        assert.equal(found.address, uuid)
        assert.deepEqual(found.toBind, [])
        assert.equal(found.noIommu, undefined)
        assert.equal(found.viability?.viable, true)
        assert.deepEqual(found.uses, [])
        const group = present(found.group)
        assert.deepEqual(
          assessViability(seen, group).members.map(({ address, blocks }) => [address, blocks]),
          [[uuid, false]],
        )
        assert.deepEqual(
          assessGroup(seen, group).map(({ address }) => address),
          [uuid],
        )
      }
    })

    it('by VFIO devices alone where VFIO has no groups', () => {
      const { group, ...alone } = vgpu
      const found = assess(see({ ...GVT, mdev: [gvt([alone])] }), ONE)
      assert.equal(group, 12)
      assert.deepEqual([found.verdict, found.group, found.viability], ['ready', null, null])
    })

    it('bindable where an old kernel waits for vfio_mdev (intel/gvt-linux#74), and else blocked', () => {
      const bare = { uuid: ONE, type: 'i915-GVTg_V5_4' }
      const old = see({ ...GVT, kernel: '4.20.8-200.fc29', mdev: [gvt([bare])] })
      assert.deepEqual([assess(old, ONE).verdict, assess(old, ONE).toBind], ['bindable', [ONE]])
      const steps = planAssignment(old, [ONE]).steps.map(({ action, path, value }) => [action, path, value])
      const { sysfs } = old.host.paths
      assert.deepEqual(steps, [
        ['load', '/sbin/modprobe', 'vfio_mdev'],
        ['write', `${sysfs}/bus/mdev/drivers_probe`, ONE],
      ])
      const recent = assess(see({ ...GVT, mdev: [gvt([bare])] }), ONE)
      assert.equal(recent.verdict, 'blocked')
      assert.match(recent.reason, /has no driver.*make it anew \("vfio mdev remove/)
      const { group: _group, vfioDevice: _node, ...unregistered } = vgpu
      const failed = assess(see({ ...GVT, mdev: [gvt([unregistered])] }), ONE)
      assert.match(failed.reason, /bound to intel_vgpu_mdev, which has not given it to VFIO/)
      assert.equal(failed.verdict, 'blocked')
    })

    it('and is bound to vfio_mdev there, and given back, as any device is', async () => {
      const trees = makeHost({
        ...GVT,
        kernel: '4.20.8-200.fc29',
        mdev: [gvt([{ uuid: ONE, type: 'i915-GVTg_V5_4' }])],
      })
      const tree = new Tree(join(trees.sysfs, '..'))
      const device = `sys/devices/pci0000:00/${IGPU}/${ONE}`
      const loaded: string[] = []
      const kernel = {
        load: async (_program: string, module: string) => void loaded.push(module),
        async write(path: string, value: string) {
          assert.equal(value.trim(), ONE)
          if (path.endsWith('/bus/mdev/drivers_probe')) {
            tree.file('sys/bus/mdev/drivers/vfio_mdev/unbind', '')
            tree.linkTo(`${device}/driver`, 'sys/bus/mdev/drivers/vfio_mdev')
            tree.linkTo(`${device}/iommu_group`, 'sys/kernel/iommu_groups/12')
            tree.linkTo(`sys/kernel/iommu_groups/12/devices/${ONE}`, device)
          } else {
            assert.match(path, new RegExp(`/bus/mdev/devices/${ONE}/driver/unbind$`))
            for (const name of ['driver', 'iommu_group']) tree.remove(`${device}/${name}`)
            tree.remove('sys/kernel/iommu_groups/12')
          }
        },
        read: async (path: string) => readFileSync(path, 'utf8'),
        isOpen: () => false,
      }
      const options = Object.assign({ journal: journalOf(trees) }, { kernel })
      const assignment = await assign(planAssignment(new Host(trees).snapshot(), [ONE]), options)
      assert.deepEqual(loaded, ['vfio_mdev'])
      assert.deepEqual(
        assignment.devices.map(({ address, group, driver }) => [address, group, driver]),
        [[ONE, 12, 'vfio_mdev']],
      )
      assert.equal(assess(new Host(trees).snapshot(), ONE).verdict, 'ready')
      assert.deepEqual((await release([ONE.toUpperCase()], options)).released, [ONE])
      assert.equal(new Host(trees).snapshot().mediatedDevice(ONE).driver, null)
    })

    it('says of resets that only who opens it knows, and compares no more than was predicted', () => {
      const found = assess(see(GVT), ONE)
      assert.equal(found.reset.function.unknown, true)
      assert.equal(found.reset.scope, 'none')
      for (const functionReset of [true, false]) {
        const kernel = { viable: true, functionReset, hotReset: 'ENOTTY' }
        assert.equal(agreesWithKernel({ ...found, kernel }), true)
      }
      assert.equal(
        agreesWithKernel({ ...found, kernel: { viable: false, functionReset: true, hotReset: 'ENOTTY' } }),
        false,
      )
    })

    it('in use by whom, and so is the function that carries them', () => {
      const host = new UsedHost(GVT)
      host.tree.link('sys/dev/char/245:3', `../../devices/pci0000:00/${IGPU}/${ONE}/vfio-dev/vfio3`)
      host.processes({ pid: 77, command: 'qemu-system-x86', open: ['/dev/vfio/devices/vfio3'] })
      assert.deepEqual(host.uses(ONE), ['blocks vfio: vfio3 is open in qemu-system-x86 (pid 77)'])
      assert.deepEqual(host.uses(IGPU), [
        `blocks vfio: its mediated device ${ONE} goes with it, and vfio3 is open in qemu-system-x86 (pid 77)`,
        `blocks other: there are virtual devices on it: ${ONE}, and mediated devices are gone for good once its driver lets it go`,
      ])
      // Nothing forces what the kernel would wait for.
      const { blockers } = planAssignment(host.see(), [IGPU], { force: ['other', 'display'] })
      assert.match(blockers.map(({ reason }) => reason).join(), /goes with it.*close it there first/)
    })

    it('by the file that says whose it is (since 6.18), and not as the function that carries them', () => {
      const host = new UsedHost(GVT)
      host.processes({
        pid: 78,
        command: 'qemu',
        open: ['anon_inode:[vfio-device]'],
        info: `vfio-device-syspath: /sys/devices/pci0000:00/${IGPU}/${ONE}\n`,
      })
      assert.deepEqual(host.uses(ONE), ['blocks vfio: it is open through VFIO in qemu (pid 78)'])
      assert.match(host.uses(IGPU)[0] ?? '', /^blocks vfio: its mediated device/)
    })

    it('blocked where who has it open cannot be told', () => {
      const [use] = assess(see({ ...GVT, processes: false }), ONE).uses
      assert.equal(use?.unknown, true)
      assert.match(use?.what ?? '', /whether it is open through VFIO could not be seen/)
    })

    it('among all of a host', () => {
      const { mediated, devices } = survey(see(GVT))
      assert.deepEqual(
        mediated?.map(({ uuid, verdict }) => [uuid, verdict]),
        [[ONE, 'ready']],
      )
      assert.equal(devices.length, 1)
      assert.equal('mediated' in survey(see({ devices: [IGPU_DEVICE] })), false)
    })
  })

  describe('are handed on', () => {
    let seen: Snapshot
    before(() => {
      seen = see({ ...VIRTUAL, devices: [{ address: '0000:00:03.0', driver: 'vfio-pci', group: 3 }] })
    })

    it('with nothing to bind, alone and beside a function', () => {
      const plan = planAssignment(seen, [ONE])
      assert.deepEqual([plan.addresses, plan.toBind, plan.steps, plan.blockers], [[ONE], [], [], []])
      assert.deepEqual(plan.devices, [
        { address: ONE, group: 30, driver: 'mtty', former: { driver: 'mtty', override: null } },
      ])
      assert.deepEqual(plan.basis, [{ address: ONE, driver: 'mtty', override: null, ids: 'mtty-1' }])
      assert.deepEqual(planAssignment(seen, [ONE, '00:03.0']).addresses, ['0000:00:03.0', ONE])
      const wrong = planAssignment(seen, [ONE], { driver: 'vfio-pci' })
      assert.match(wrong.blockers[0]?.reason ?? '', /vfio-pci cannot take it/)
    })

    it('to QEMU by their path, below a port', () => {
      assert.deepEqual(exportQemu(seen, [ONE, '00:03.0']).arguments, [
        '-device',
        'pcie-root-port,id=vfio-port0,bus=pcie.0,chassis=100,slot=1',
        '-device',
        'vfio-pci,host=0000:00:03.0,id=vfio0,bus=vfio-port0,addr=00.0',
        '-device',
        'pcie-root-port,id=vfio-port1,bus=pcie.0,chassis=100,slot=2',
        '-device',
        `vfio-pci,sysfsdev=/sys/bus/mdev/devices/${ONE},id=vfio1,bus=vfio-port1,addr=00.0`,
      ])
      const { devices, blockers } = exportQemu(seen, [ONE], { iommufd: true, machine: 'pc' })
      assert.deepEqual([devices, blockers], [[{ address: ONE, id: 'vfio0' }], []])
    })

    it('to machines of Z as what they are, and to no other', () => {
      const z = see(Z)
      const { machine, arguments: all } = exportQemu(z, [ONE, TWO])
      assert.equal(machine, 's390-ccw-virtio')
      assert.deepEqual(all, [
        '-device',
        `vfio-ccw,sysfsdev=/sys/bus/mdev/devices/${ONE},id=vfio0`,
        '-device',
        `vfio-ap,sysfsdev=/sys/bus/mdev/devices/${TWO},id=vfio1`,
      ])
      assert.throws(
        () => exportQemu(z, [TWO], { machine: 'q35' }),
        isCode('ERR_VFIO_BAD_ARGUMENT', /driven as vfio-ap/),
      )
      assert.match(exportLibvirt(z, [ONE]).text, /type='mdev' managed='no' model='vfio-ccw'>/)
      assert.match(exportCloudHypervisor(z, [TWO]).blockers.join(), /Cloud Hypervisor has only PCI devices/)
    })

    it('to libvirt by their UUID, and it binds nothing', () => {
      const { text, managed } = exportLibvirt(seen, [ONE], { managed: true })
      assert.equal(managed, false)
      assert.equal(
        text,
        [
          "<hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci'>",
          '  <source>',
          `    <address uuid='${ONE}'/>`,
          '  </source>',
          '</hostdev>',
          '',
        ].join('\n'),
      )
      assert.match(
        exportLibvirt(seen, [ONE], { guestAddress: '05:00.0' }).text,
        /<address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'\/>/,
      )
    })

    it('to Cloud Hypervisor by their path', () => {
      assert.deepEqual(exportCloudHypervisor(seen, [ONE]).arguments, [
        '--device',
        `path=/sys/bus/mdev/devices/${ONE},id=vfio0`,
      ])
    })

    it('to nobody where the type does not tell how to drive them', () => {
      const strange = see({
        ...VIRTUAL,
        mdev: (VIRTUAL.mdev ?? []).map((parent) => ({
          ...parent,
          types: parent.types.map((type) => ({ ...type, deviceApi: 'vfio-platform' })),
        })),
      })
      for (const { blockers } of [exportQemu(strange, [ONE]), exportLibvirt(strange, [ONE])]) {
        assert.match(blockers.join(), /device_api of its type mtty-1 says "vfio-platform"/)
      }
    })

    it('to users by a rule that finds them by UUID', () => {
      const rule = grantRule(seen, ONE, { user: 'alice' })
      assert.match(rule, new RegExp(`TEST=="/sys/kernel/iommu_groups/%k/devices/${ONE}", OWNER="alice"`))
      assert.match(rule, new RegExp(`SUBSYSTEM=="vfio-dev", KERNELS=="${ONE}"`))
    })

    it('to the next boot by who makes them, since nothing binds them', () => {
      assert.throws(
        () => planPersistence(seen, [ONE]),
        isCode(
          'ERR_VFIO_BAD_ARGUMENT',
          new RegExp(`mdevctl define --auto --uuid ${ONE} --parent mtty --type mtty-1`),
        ),
      )
    })
  })

  describe('are made and removed', () => {
    const look = (trees: HostTrees) => new Host(trees).snapshot()
    const leftIn = (trees: HostTrees) => (existsSync(journalOf(trees)) ? readdirSync(journalOf(trees)) : [])

    it('with a UUID of their own or any, and away again', async () => {
      const trees = makeHost(VIRTUAL)
      const { options, writes } = kernelOf(trees)
      const made = await createMdev(look(trees), 'mtty-1', 'mtty', { ...options, uuid: NEW.toUpperCase() })
      assert.deepEqual(made, { uuid: NEW, type: 'mtty-1', parent: 'mtty', group: 77, driver: 'mtty' })
      assert.deepEqual(writes, [`create=${NEW}`])
      const other = await createMdev(look(trees), 'Single port serial', 'mtty', options)
      assert.match(other.uuid, /^[0-9a-f-]{36}$/)
      assert.deepEqual(await removeMdev(look(trees), NEW, options), {
        uuid: NEW,
        type: 'mtty-1',
        parent: 'mtty',
      })
      assert.equal(existsSync(`${trees.sysfs}/bus/mdev/devices/${NEW}`), false)
      assert.deepEqual(leftIn(trees), [])
    })

    it('on the function that carries them, by any form of its address', () => {
      const seen = see({ devices: [IGPU_DEVICE], mdev: [gvt()] })
      const plan = planMdev(seen, 'i915-GVTg_V5_8', '00:02.0', { uuid: NEW })
      assert.deepEqual([plan.parent, plan.function, plan.blockers], [IGPU, IGPU, []])
      assert.match(plan.path, /class\/mdev_bus\/0000:00:02\.0\/mdev_supported_types\/i915-GVTg_V5_8\/create$/)
    })

    const REFUSED: [string, HostDescription, [string, string, string?], string, RegExp][] = [
      [
        'a type that is misspelt',
        GVT,
        ['i915-GVTg_V5_5', IGPU],
        'ERR_VFIO_BAD_ARGUMENT',
        /did you mean i915-GVTg_V5_4\?/,
      ],
      [
        'a type without its driver',
        GVT,
        ['GVTg_V5_8', IGPU],
        'ERR_VFIO_BAD_ARGUMENT',
        /did you mean i915-GVTg_V5_8\?/,
      ],
      [
        'a type that there is not',
        GVT,
        ['nvidia-63', IGPU],
        'ERR_VFIO_BAD_ARGUMENT',
        /it has i915-GVTg_V5_4, i915-GVTg_V5_8/,
      ],
      [
        'no room',
        GVT,
        ['i915-GVTg_V5_4', IGPU],
        'ERR_VFIO_NO_MDEV',
        new RegExp(`no room .*remove one that there is \\(${ONE}\\)`),
      ],
      [
        'a function that makes none',
        VIRTUAL,
        ['mtty-1', '00:03.0'],
        'ERR_VFIO_NO_MDEV',
        /0000:00:03\.0 makes no mediated devices .*mtty/,
      ],
      ['a parent that is misspelt', VIRTUAL, ['mtty-1', 'mtyt'], 'ERR_VFIO_NO_DEVICE', /did you mean mtty\?/],
      [
        'no such function',
        VIRTUAL,
        ['mtty-1', '00:09.0'],
        'ERR_VFIO_NO_DEVICE',
        /no PCI device 0000:00:09\.0/,
      ],
      [
        'a host without any',
        { devices: [] },
        ['mtty-1', 'mtty'],
        'ERR_VFIO_NO_DEVICE',
        /nor does anything else here/,
      ],
      [
        'a UUID that is taken',
        VIRTUAL,
        ['mtty-1', 'mtty', ONE],
        'ERR_VFIO_IN_USE',
        /already, of mtty: leave --uuid out/,
      ],
      [
        'a UUID that is none',
        VIRTUAL,
        ['mtty-1', 'mtty', '83b8f4f2'],
        'ERR_VFIO_BAD_ADDRESS',
        /is not a UUID/,
      ],
    ]
    for (const [what, host, [type, parent, uuid], code, text] of REFUSED) {
      it(`not with ${what}: says so, and changes nothing`, async () => {
        const trees = makeHost(host)
        const { options, writes } = kernelOf(trees)
        await assert.rejects(createMdev(look(trees), type, parent, { ...options, uuid }), isCode(code, text))
        assert.deepEqual([writes, leftIn(trees)], [[], []])
      })
    }

    it('not where the kernel refuses, and leaves no record', async () => {
      const trees = makeHost(VIRTUAL)
      const { options } = kernelOf(trees, () => 28)
      await assert.rejects(
        createMdev(look(trees), 'mtty-1', 'mtty', options),
        isCode('ENOSPC', /remove a mediated device/),
      )
      await assert.rejects(removeMdev(look(trees), ONE, options), isCode('ENOSPC'))
      assert.deepEqual(leftIn(trees), [])
    })

    it('not away while somebody has them open, nor where that is not known', async () => {
      const trees = makeHost(VIRTUAL)
      const { options, writes } = kernelOf(trees)
      const kernel = { ...options.kernel, isOpen: () => true }
      await assert.rejects(
        removeMdev(look(trees), ONE, { ...options, kernel } as never),
        isCode('ERR_VFIO_IN_USE', /is open/),
      )
      assert.deepEqual(writes, [])
      const hidden = makeHost({ ...VIRTUAL, processes: false })
      await assert.rejects(
        removeMdev(look(hidden), ONE, kernelOf(hidden).options),
        isCode('ERR_VFIO_IN_USE', /could not be seen/),
      )
      await assert.rejects(removeMdev(look(trees), NEW, options), isCode('ERR_VFIO_NO_DEVICE'))
    })

    it('not away where somebody has opened them since the look', async () => {
      const host = new UsedHost(VIRTUAL)
      const seen = host.see()
      host.process({ pid: 90, command: 'late', open: ['/dev/vfio/devices/vfio7'] })
      const options = { journal: join(temporaryDirectory(), 'journal'), kernel: { isOpen: () => false } }
      await assert.rejects(removeMdev(seen, ONE, options), isCode('ERR_VFIO_IN_USE', /late \(pid 90\)/))
    })

    it('not for ever: what the kernel does not answer keeps its record and its lock', async () => {
      const trees = makeHost(VIRTUAL)
      const { options } = kernelOf(trees, () => 'hang')
      await assert.rejects(
        removeMdev(look(trees), ONE, { ...options, deadline: 20 }),
        isCode('ERR_VFIO_TIMEOUT'),
      )
      assert.deepEqual(leftIn(trees), [`step-${ONE}.json`])
    })

    /** A program that is killed at its write, before or after the kernel did it. */
    const killed = (trees: HostTrees, step: 'create' | 'remove', when: 'before' | 'after') => {
      const program = `
        import { execFileSync } from 'node:child_process'
        import { createMdev, Host, removeMdev } from '${join(ROOT, 'dist/index.js')}'
        const [trees, journal, step, when, uuid] = JSON.parse(process.argv[1])
        const kernel = {
          async write(path, text) {
            if (when === 'after') {
              const device = trees.sysfs + '/devices/virtual/mtty/mtty/' + uuid
              execFileSync('sh', ['-c', step === 'create'
                ? 'mkdir ' + device + ' && touch ' + device + '/remove && ln -s ../../../devices/virtual/mtty/mtty/' + uuid + ' ' + trees.sysfs + '/bus/mdev/devices/'
                : 'rm -r ' + device + ' ' + trees.sysfs + '/bus/mdev/devices/' + uuid])
            }
            process.kill(process.pid, 'SIGKILL')
          },
          isOpen: () => false,
        }
        const seen = new Host(trees).snapshot()
        const options = { journal, kernel, uuid }
        await (step === 'create' ? createMdev(seen, 'mtty-1', 'mtty', options) : removeMdev(seen, uuid, options))`
      const uuid = step === 'create' ? NEW : ONE
      const { signal, stderr } = spawnSync(
        process.execPath,
        ['--input-type=module', '-e', program, JSON.stringify([trees, journalOf(trees), step, when, uuid])],
        { encoding: 'utf8' },
      )
      assert.equal(signal, 'SIGKILL', stderr)
      return uuid
    }

    for (const [step, when, isThere] of [
      ['create', 'before', false],
      ['create', 'after', false],
      ['remove', 'before', true],
      ['remove', 'after', false],
    ] as const) {
      it(`in order again after a program was killed ${when} the kernel was told to ${step} one`, async () => {
        const trees = makeHost(VIRTUAL)
        const uuid = killed(trees, step, when)
        const { unfinished } = await status({ journal: journalOf(trees) })
        assert.deepEqual(
          unfinished?.map(({ address, step: of, alive }) => [address, of, alive]),
          [[uuid, `mdev-${step}`, false]],
        )
        const { options } = kernelOf(trees)
        const report = await recover(options)
        assert.deepEqual(report.recovered, [uuid])
        assert.equal(existsSync(`${trees.sysfs}/bus/mdev/devices/${uuid}`), isThere)
        assert.deepEqual(leftIn(trees), [])
      })
    }

    it('only once what was left half done is in order', async () => {
      const trees = makeHost(VIRTUAL)
      killed(trees, 'remove', 'before')
      await assert.rejects(
        removeMdev(look(trees), ONE, kernelOf(trees).options),
        isCode('ERR_VFIO_IN_USE', /half done.*"vfio recover"/),
      )
      await recover(kernelOf(trees).options)
      await removeMdev(look(trees), ONE, kernelOf(trees).options)
    })

    it('from records that say nothing else than what may be written', async () => {
      const trees = makeHost(VIRTUAL)
      killed(trees, 'remove', 'before')
      const [name = ''] = leftIn(trees)
      const path = join(journalOf(trees), name)
      const record = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>
      for (const address of ['../../etc', '0000:00:03.0', 7]) {
        writeFileSync(path, JSON.stringify({ ...record, address }))
        assert.equal((await status({ journal: journalOf(trees) })).bad.length, 1)
      }
      rmSync(path)
    })
  })
})
