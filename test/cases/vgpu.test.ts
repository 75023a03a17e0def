import assert from 'node:assert/strict'
import {
  assess,
  assessViability,
  exportLibvirt,
  exportQemu,
  Host,
  planAssignment,
  planPersistence,
  planVfs,
  rescanDevice,
  resetByMethod,
  resetDevice,
  type Snapshot,
  setVfs,
  survey,
  VfioError,
} from 'vfio'
import { type DeviceDescription, makeHost, removeDirectories } from '../fixtures/host.js'
import { UsedHost } from '../fixtures/uses.js'

const PF = '0000:41:00.0'
const VF = '0000:41:00.5'

/** A driver of its own gives a function to VFIO, by what the kernel shows of that; whose driver it is does not matter. */
const KINDS: readonly [what: string, driver: string, files: DeviceDescription['files'], kernel: string][] = [
  // kubevirt/kubevirt#17642, OpenNebula/one#6841: vGPU 17 on Linux 6.8.
  [
    'a vGPU with its VFIO device and its profile',
    'nvidia',
    {
      'vfio-dev/vfio3/dev': '237:3\n',
      'nvidia/current_vgpu_type': '1155\n',
      'nvidia/creatable_vgpu_types': 'ID    : vGPU Name\n',
    },
    '6.8.0-60-generic',
  ],
  // A kernel without CONFIG_VFIO_DEVICE_CDEV: the directory is there, its number is not.
  ['a VFIO device without a node of its own', 'some_vdev', { 'vfio-dev/vfio3/uevent': '' }, '6.12.0'],
  // Before 6.1 VFIO had no such directory: the profile is all.
  ['a profile alone', 'nvidia', { 'nvidia/current_vgpu_type': '1155\n' }, '5.14.0-503.el9'],
  [
    'a profile alone, of a driver by another name',
    'some_vdev',
    { 'nvidia/current_vgpu_type': '1155\n' },
    '5.14.0-503.el9',
  ],
]

/** The profile is looked for where the driver or the vendor is NVIDIA. */
const vendorOf = (driver: string) => (driver === 'nvidia' ? 0x8086 : 0x10de)

const describeHost = (driver: string, files: DeviceDescription['files'], kernel: string) => ({
  kernel,
  devices: [
    {
      address: '0000:40:01.1',
      headerType: 'bridge' as const,
      secondaryBus: 0x41,
      driver: 'pcieport',
      group: 40,
    },
    { address: PF, class: 0x030200, driver, group: 41, totalVfs: 32, resetMethod: 'flr bus' },
    {
      address: VF,
      vendor: vendorOf(driver),
      class: 0x030200,
      physfn: PF,
      driver,
      group: 60,
      resetMethod: 'flr',
      ...(files && { files }),
    },
  ],
})

const isCode = (code: string, text: RegExp) => (error: unknown) =>
  error instanceof VfioError && error.code === code && text.test(error.message)

describe('a function that its own driver gives to VFIO', () => {
  after(removeDirectories)

  for (const [what, driver, files, kernel] of KINDS) {
    describe(`(${what})`, () => {
      let seen: Snapshot
      before(() => {
        seen = new Host(makeHost(describeHost(driver, files, kernel))).snapshot()
      })

      it('is ready as it is', () => {
        const { verdict, toBind, reason } = assess(seen, VF)
        assert.deepEqual([verdict, toBind], ['ready', []], reason)
        assert.equal(assessViability(seen, 60).viable, true)
        assert.equal(survey(seen).devices.find(({ address }) => address === VF)?.verdict, 'ready')
      })

      it('is bound to nothing else, with or without its group, and never reset', () => {
        for (const options of [{}, { group: true }, { reset: 'before-and-after' as const }]) {
          const { steps, blockers, devices } = planAssignment(seen, [VF], options)
          assert.deepEqual([steps, blockers, devices.map((device) => device.driver)], [[], [], [driver]])
        }
        const { blockers } = planAssignment(seen, [VF], { driver: 'vfio-pci' })
        assert.match(
          blockers[0]?.reason ?? '',
          new RegExp(`through its own driver ${driver}.*leave --driver out`),
        )
      })

      it('is exported as what libvirt finds and leaves alone, whatever is asked for', () => {
        for (const options of [{}, { managed: true }, { managed: false }]) {
          const { text, managed, blockers } = exportLibvirt(seen, [VF], options)
          assert.match(text, /managed='no'/)
          assert.deepEqual([managed, blockers], [false, []])
        }
        assert.match(exportLibvirt(seen, [VF], { managed: true }).notes.join(), /managed='no' all the same/)
        assert.deepEqual(exportLibvirt(seen, [VF]).notes, [])
        assert.match(exportQemu(seen, [VF]).text, new RegExp(`vfio-pci,host=${VF}`))
      })

      it('is reset by nobody but who opens it, and neither removed nor persisted', async () => {
        await assert.rejects(resetDevice(seen, VF), isCode('ERR_VFIO_NO_RESET', /through its own driver/))
        await assert.rejects(
          resetByMethod(seen, VF, 'flr'),
          isCode('ERR_VFIO_NO_RESET', /through its own driver/),
        )
        await assert.rejects(rescanDevice(seen, VF), isCode('ERR_VFIO_BAD_ARGUMENT', /virtual function/))
        assert.throws(
          () => planPersistence(seen, [VF]),
          isCode('ERR_VFIO_BAD_ARGUMENT', /through its own driver/),
        )
      })

      it('is persisted by nobody where it is no virtual function either', () => {
        const { devices, ...rest } = describeHost(driver, files, kernel)
        const alone = devices.map(({ physfn: _pf, ...device }: DeviceDescription) => device)
        const whole = new Host(makeHost({ ...rest, devices: alone })).snapshot()
        assert.match(
          planPersistence(whole, [VF])
            .blockers.map(({ reason }) => reason)
            .join(),
          /through its own driver/,
        )
      })

      it('keeps the number of virtual functions as it is, and no cure would break it', async () => {
        const [blocker] = planVfs(seen, PF, 0, { vfioSriov: false }).blockers
        assert.match(
          blocker?.reason ?? '',
          new RegExp(`${VF} is bound to ${driver} and would vanish: ${driver} has given it to VFIO`),
        )
        await assert.rejects(setVfs(seen, PF, 0), isCode('ERR_VFIO_IN_USE', /stop who uses it/))
      })

      it('is in use where its group or node is open, and that is not taken for unused where nobody can look', () => {
        const host = new UsedHost(describeHost(driver, files, kernel))
        host.processes({ pid: 4711, command: 'qemu-kvm', open: ['/dev/vfio/60'] })
        assert.match(host.uses(VF).join(), /^blocks vfio: group 60 is open in qemu-kvm \(pid 4711\)/)
        const blind = new Host(
          makeHost({ ...describeHost(driver, files, kernel), processes: false }),
        ).snapshot()
        assert.match(
          assess(blind, VF)
            .uses.map((use) => use.what)
            .join(),
          /whether it is open through VFIO could not be seen/,
        )
      })
    })
  }
})
