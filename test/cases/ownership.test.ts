import assert from 'node:assert/strict'
import { assess, exportLibvirt, planAssignment, survey } from 'vfio'
import { type DeviceDescription, type HostDescription, removeDirectories } from '../fixtures/host.js'
import { UsedHost } from '../fixtures/uses.js'

const PF: DeviceDescription = {
  address: '0000:41:00.0',
  vendor: 0x10de,
  device: 0x2335,
  class: 0x030200,
  driver: 'nvidia',
  group: 41,
  totalVfs: 32,
  resetMethod: 'flr',
}
const VF: DeviceDescription = {
  address: '0000:41:00.5',
  vendor: 0x10de,
  device: 0x2335,
  class: 0x030200,
  physfn: PF.address,
  driver: 'nvidia',
  group: 60,
  resetMethod: 'flr',
}

const see = (devices: readonly DeviceDescription[], host: HostDescription = {}) =>
  new UsedHost({ kernel: '6.8.0-60-generic', ...host, devices }).see()

describe('what VFIO owns', () => {
  after(removeDirectories)

  /** In each way of looking it is ready, and nothing is taken from its driver. */
  function isReady(device: DeviceDescription, others: readonly DeviceDescription[] = []): void {
    const seen = see([...others, device])
    const { verdict, viability } = assess(seen, device.address)
    assert.deepEqual([verdict, viability?.viable], ['ready', true])
    assert.equal(survey(seen).devices.find(({ address }) => address === device.address)?.verdict, 'ready')
    const plan = planAssignment(seen, [device.address])
    assert.deepEqual([plan.toBind, plan.steps, plan.blockers], [[], [], []])
    const exported = exportLibvirt(seen, [device.address])
    assert.equal(exported.managed, false)
    assert.match(exported.text, /managed='no'/)
  }

  // kubevirt/kubevirt#17642, OpenNebula/one#6841, harvester/pcidevices: vGPU 17 on 6.8.
  it('a virtual function with a vGPU profile, on the driver nvidia', () => {
    isReady({ ...VF, vfioDevice: 'vfio3', files: { 'nvidia/current_vgpu_type': '1155\n' } }, [PF])
  })

  // drivers/vfio/vfio_main.c, vfio_device_add(): `vfio-dev/` is made for each, whoever registers it.
  it('a device of a driver that nobody has heard of', () => {
    isReady({ ...VF, driver: 'acme-passthru', vfioDevice: 'vfio0' }, [{ ...PF, driver: 'acme' }])
    isReady({ address: '0000:05:00.0', driver: 'ism_vfio', group: 5, vfioDevice: 'vfio1' })
  })

  // NVIDIA's vGPU guide, "Creating an NVIDIA vGPU on a Linux with KVM hypervisor that supports SR-IOV".
  it('is not yet a virtual function without a profile: it needs one, and no other driver', () => {
    const seen = see([PF, { ...VF, files: { 'nvidia/current_vgpu_type': '0\n' } }])
    const { verdict, reason, toBind } = assess(seen, VF.address)
    assert.deepEqual([verdict, toBind], ['blocked', []])
    assert.match(reason, /current_vgpu_type/)
    assert.equal(planAssignment(seen, [VF.address]).blockers.length > 0, true)
  })

  // ydb-platform/nbs#6067: since 6.1 `vfio-dev/vfioN` is there, the character device with CONFIG_VFIO_DEVICE_CDEV alone.
  it('has a character device only where the kernel has made one', () => {
    const bound: DeviceDescription = { address: '0000:01:00.0', driver: 'vfio-pci', group: 2 }
    const without = see([{ ...bound, files: { 'vfio-dev/vfio0/power/control': 'auto\n' } }])
    assert.deepEqual(
      [without.device(bound.address).vfioRegistered, without.device(bound.address).vfioDevice],
      [true, null],
    )
    const made = see([{ ...bound, vfioDevice: 'vfio0' }])
    assert.equal(made.device(bound.address).vfioDevice, 'vfio0')
  })

  // Before 6.1 there is no vfio-dev/: names are all there is.
  it('is told by the name of the driver before 6.1', () => {
    const seen = see([{ address: '0000:01:00.0', driver: 'mlx5_vfio_pci', group: 2 }], {
      kernel: '5.15.0-100-generic',
    })
    assert.equal(assess(seen, '0000:01:00.0').verdict, 'ready')
  })

  it('is not what a driver merely calls its own', () => {
    const seen = see([{ address: '0000:01:00.0', driver: 'nvidia', group: 2 }])
    const { verdict, viability } = assess(seen, '0000:01:00.0')
    assert.deepEqual([verdict, viability?.viable], ['bindable', false])
  })
})
