import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { release } from 'node:os'
import { DmaBuffer, Host, openDevice } from 'vfio'
import { onPath } from '../../scripts/lab/programs.js'
import { skip } from '../fixtures/skip.js'
import { hostState, vfio } from './assign-host.js'
import { driverOf, put } from './binding.js'

const NIC = '0000:00:05.0'
const MODE = '/sys/module/vfio/parameters/enable_unsafe_noiommu_mode'
const HUGE_PAGES = '/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages'

describe(`a device without an IOMMU on ${release()}`, function () {
  this.timeout(300_000)

  let found: Record<string, string>
  before(function () {
    spawnSync('modprobe', ['vfio-pci'])
    if (!existsSync(MODE)) skip(this, 'this kernel has no no-IOMMU mode')
    put(NIC, 'host')
    found = hostState()
  })
  after(() => {
    if (existsSync(MODE)) writeFileSync(MODE, 'N')
  })

  it('is not bound while the mode is off, which nothing switches on', () => {
    for (const [options, said] of [
      [[], /in no IOMMU group/],
      [['--noiommu'], /echo 1 > \S+enable_unsafe_noiommu_mode\), and in which nothing keeps the device/],
    ] as const) {
      const { status, stderr } = vfio('bind', NIC, ...options)
      assert.equal(status, 1, stderr)
      assert.match(stderr, said)
    }
    assert.equal(readFileSync(MODE, 'utf8'), 'N\n')
    assert.deepEqual(hostState(), found)
  })

  it('is not bound for who has not said that he wants it', () => {
    writeFileSync(MODE, 'Y')
    const { status, stderr } = vfio('bind', NIC)
    assert.equal(status, 1)
    assert.match(stderr, /all memory of this host.*say so with --noiommu/)
    assert.deepEqual(hostState(), found)
  })

  it('is bound for who has, with the risk said', () => {
    const { status, stdout, stderr } = vfio('bind', NIC, '--noiommu')
    assert.equal(status, 0, stderr)
    assert.match(stdout, new RegExp(`^${NIC} is bound to vfio-pci, group \\d+\n$`))
    assert.match(stderr, /nothing keeps the device from reading and writing all memory of this host/)
    assert.equal(new Host().snapshot().device(NIC).driver, 'vfio-pci')
  })

  it('is opened by its group, and driven', async () => {
    await using opened = await openDevice(NIC)
    assert.equal(opened.backend, 'group')
    assert.equal(opened.device.config.vendor, 0x8086)
    assert.notEqual(opened.device.region('bar0').read32(8), 0xffffffff)
  })

  it('is opened by its own node, and told where its memory is', async function () {
    if (!existsSync('/dev/iommu')) skip(this, 'this kernel has no iommufd')
    const { vfioDevice } = new Host().snapshot().device(NIC)
    assert.match(vfioDevice ?? '', /^noiommu-vfio\d+$/)
    await using opened = await openDevice(NIC, { backend: 'iommufd' })
    assert.equal(opened.device.config.vendor, 0x8086)
    using buffer = DmaBuffer.allocate(8192)
    const mapping = await opened.dma.map(buffer)
    const { address, length } = await opened.ioas.physicalAddress(mapping.iova + 16n, 4096 - 16)
    assert.equal(address % 4096n, 16n)
    assert.equal(length, 4080n)
    // The second page of it is somewhere else, or right behind.
    const second = await opened.ioas.physicalAddress(mapping.iova + 4096n, 4096)
    assert.notEqual(second.address, address - 16n)
    await mapping.unmap()
  })

  it('is driven by DPDK', function () {
    if (onPath('dpdk-testpmd') === undefined) skip(this, 'dpdk-testpmd is not installed (package dpdk-dev)')
    writeFileSync(HUGE_PAGES, '64')
    mkdirSync('/run/hugepages', { recursive: true })
    spawnSync('mount', ['-t', 'hugetlbfs', 'none', '/run/hugepages'])
    const { stdout, stderr } = spawnSync(
      'dpdk-testpmd',
      [
        ...[
          '-l',
          '0-1',
          '-a',
          NIC,
          '--iova-mode=pa',
          '--huge-dir=/run/hugepages',
          '-m',
          '64',
          '--no-telemetry',
        ],
        ...['--', '--total-num-mbufs=2048', '--auto-start', '--stats-period=1', '--no-lsc-interrupt'],
      ],
      { encoding: 'utf8', timeout: 60_000, input: '' },
    )
    spawnSync('umount', ['/run/hugepages'])
    writeFileSync(HUGE_PAGES, '0')
    assert.match(`${stdout}${stderr}`, /IOVA mode 'PA'/)
    assert.match(`${stdout}${stderr}`, new RegExp(`Probe PCI driver: net_e1000\\S* .*${NIC}`), stderr)
    assert.match(stdout, /Port 0: 52:54:00:05:05:00/)
  })

  it('is given back as it was', () => {
    const { status, stderr } = vfio('release', '--all')
    assert.equal(status, 0, stderr)
    assert.notEqual(driverOf(NIC), 'vfio-pci')
    assert.deepEqual(hostState(), found)
  })
})
