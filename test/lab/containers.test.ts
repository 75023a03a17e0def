import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, rmdirSync } from 'node:fs'
import { release as kernelRelease } from 'node:os'
import { createInterface } from 'node:readline'
import { Host } from 'vfio'
import { skip } from '../fixtures/skip.js'
import { place, spare, vfio } from './assign-host.js'
import type { Found } from './container-program.js'
import { Containerd } from './cri.js'
import { hasDeviceFilter, Podman } from './podman.js'
import { isEdu } from './spare.js'

/** What `identities` has of the edu device, besides its version. */
const EDU = 0xed

describe(`containers on ${kernelRelease()} that are given devices by name`, function () {
  this.timeout(600_000)
  let directory: string
  let podman: Podman
  let group: number
  let members: readonly string[] = []
  let name: string

  before(function () {
    if (spawnSync('podman', ['--version']).status !== 0) skip(this, 'podman is not installed')
    place('none')
    const seen = new Host().snapshot()
    const found = spare(seen).groups.find(
      (addresses) => addresses.length === 2 && addresses.every((address) => isEdu(seen.device(address))),
    )
    assert(found?.[0], 'the topology has two edu devices in one group')
    members = found
    name = `vfio/pci=${found[0]}`
    group = seen.device(found[0]).group ?? -1
    // Nothing mounts it in this guest; what other tests see of it is put back.
    if (!existsSync('/sys/fs/cgroup/cgroup.controllers'))
      execFileSync('mount', ['-t', 'cgroup2', 'none', '/sys/fs/cgroup'])
    directory = mkdtempSync('/run/containers-')
    execFileSync('mount', ['-t', 'tmpfs', 'containers', directory])
    podman = new Podman(directory)
    const { status, stderr } = vfio('bind', found[0], '--group')
    assert.equal(status, 0, stderr)
  })

  after(() => {
    if (members.length === 0) return
    vfio('cdi', '--remove')
    const { status, stderr } = vfio('release', ...members)
    assert.equal(status, 0, stderr)
    // With what was mounted below it for containers.
    execFileSync('umount', ['--recursive', directory])
    rmdirSync(directory)
    place('none')
  })

  const write = (...options: string[]) => {
    const { status, stdout, stderr } = vfio('cdi', members[0] ?? '', '--write', ...options)
    assert.equal(status, 0, stderr)
    assert.match(stdout, /^wrote \/(var\/)?run\/cdi\/vfio-vfio_pci\.json: /)
  }

  /** That a container was told of all that it has, and opened it. */
  function assertFound(found: Found): void {
    assert.equal(found.code, undefined, JSON.stringify(found))
    const variable = `VFIO_ADDRESSES_${members[0]?.toUpperCase().replaceAll(/[:.]/g, '_')}`
    assert.deepEqual(found.given, { [variable]: members.join(' ') })
    assert.deepEqual(
      found.identities?.map((word) => word & 0xff),
      members.map(() => EDU),
    )
  }

  /**
   * Opens the device in one container, and while it has it, in another.
   * @param refusal what the kernel says there
   */
  async function openTwice(refusal: string): Promise<Found> {
    const first = podman.hold(name)
    const ended = once(first, 'close')
    try {
      const { value } = await createInterface({ input: first.stdout })[Symbol.asyncIterator]().next()
      const found = JSON.parse(value ?? 'null') as Found
      assertFound(found)
      const second = podman.run(name)
      assert.equal((JSON.parse(second.stdout) as Found).code, refusal, second.stdout + second.stderr)
      return found
    } finally {
      first.stdin.end()
      assert.deepEqual(await ended, [0, null])
    }
  }

  it('podman gives the node of a group, and a second container hears that it is in use', async () => {
    write()
    const { backend, nodes } = await openTwice('EBUSY')
    assert.equal(backend, 'group')
    assert.deepEqual(nodes, [`vfio/${group}`, 'vfio/vfio'])
  })

  it('podman gives nodes of devices, where the kernel has such', async function () {
    if (!existsSync('/dev/iommu')) skip(this, 'this kernel has no iommufd')
    write('--iommufd')
    const { backend, nodes } = await openTwice('EINVAL')
    assert.equal(backend, 'iommufd')
    const own = members
      .flatMap((address) => readdirSync(`/sys/bus/pci/devices/${address}/vfio-dev`))
      .map((node) => `vfio/devices/${node}`)
    assert.deepEqual(nodes, ['iommu', 'vfio/devices', ...own].sort())
  })

  it('podman refuses a name that there is not, or not any more', () => {
    const refused = (device: string) => {
      const { status, stdout, stderr } = podman.run(device)
      assert.notEqual(status, 0)
      assert.equal(stdout, '')
      assert.match(stderr, new RegExp(`unresolvable CDI devices ${device}`))
    }
    refused('vfio/pci=0000:ff:1f.7')
    assert.equal(vfio('cdi', '--remove').status, 0)
    refused(name)
  })

  describe('by containerd', () => {
    let containerd: Containerd | null = null
    before(async function () {
      if (!Containerd.knowsCdi) skip(this, 'there is no containerd that knows CDI (1.7 and newer)')
      if (!hasDeviceFilter) skip(this, 'runc takes a kernel with CONFIG_CGROUP_BPF')
      containerd = await Containerd.start(directory)
    })
    after(() => containerd?.end())

    it('as the kubelet asks for them', async () => {
      write()
      const { said, error } = (await containerd?.run(name)) ?? {}
      assert.equal(error, null)
      const found = JSON.parse(said ?? '') as Found
      assertFound(found)
      assert.deepEqual([found.backend, found.nodes], ['group', [`vfio/${group}`, 'vfio/vfio']])
    })

    it('and not where there is no such name', async () => {
      const { error } = (await containerd?.run('vfio/pci=0000:ff:1f.7')) ?? {}
      assert.match(error ?? '', /unresolvable CDI devices vfio\/pci=0000:ff:1f\.7/)
    })
  })
})
