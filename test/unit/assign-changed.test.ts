import assert from 'node:assert/strict'
import {
  mkdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, relative } from 'node:path'
import { assign, type PlanOptions, VfioError } from 'vfio'
import { type HostDescription, type HostTrees, READY_MODULES, removeDirectories } from '../fixtures/host.js'
import { Tree } from '../fixtures/tree.js'
import { mountLine } from '../fixtures/uses.js'
import { photographOf, planOn, prepare, SINGLE, THREE, TWINS, using } from './assign-hosts.js'
import { makeKernelHost, SimulatedKernel } from './assign-kernel.js'

const NVME = '0000:01:00.0'
const bus = ({ sysfs }: HostTrees) => `${sysfs}/bus/pci`
const fileOf = (trees: HostTrees, address: string, name: string) =>
  `${realpathSync(`${bus(trees)}/devices/${address}`)}/${name}`

/** A file may be shared with other trees: it is replaced and not written to. */
function put(path: string, text: string): void {
  rmSync(path, { force: true })
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, text)
}

/** A block device of a function, as class/block leads to it. */
function disk(trees: HostTrees, address: string, name: string, number: string): void {
  const directory = fileOf(trees, address, `block/${name}`)
  put(`${directory}/dev`, `${number}\n`)
  const block = `${trees.sysfs}/class/block`
  mkdirSync(block, { recursive: true })
  symlinkSync(relative(realpathSync(block), directory), `${block}/${name}`)
}

interface Change {
  readonly name: string
  readonly host?: HostDescription
  readonly addresses?: readonly string[]
  readonly options?: PlanOptions
  /** What the host has before the plan. */
  readonly before?: (trees: HostTrees) => void
  readonly change: (trees: HostTrees) => void | Promise<void>
  readonly code: string
  readonly says: RegExp
}

const PF: HostDescription = {
  devices: [
    ...(SINGLE.devices ?? []).map((device) =>
      device.address === NVME ? { ...device, totalVfs: 4, readable: 64 } : device,
    ),
  ],
}

const CHANGES: readonly Change[] = [
  {
    name: 'the driver',
    change: (trees) => new SimulatedKernel(trees).write(`${bus(trees)}/drivers/nvme/unbind`, NVME),
    code: 'ERR_VFIO_HOST_CHANGED',
    says: /01:00.0 is no longer as it was .*driver nvme.*now driver none/,
  },
  {
    name: 'the override',
    change: (trees) => put(fileOf(trees, NVME, 'driver_override'), 'pci-stub\n'),
    code: 'ERR_VFIO_HOST_CHANGED',
    says: /now driver nvme, override pci-stub/,
  },
  {
    name: 'the device is gone',
    change: (trees) => new SimulatedKernel(trees).write(`${bus(trees)}/devices/${NVME}/remove`, '1\n'),
    code: 'ERR_VFIO_HOST_CHANGED',
    says: /01:00.0 is gone from the host since the plan was made: plan again/,
  },
  {
    name: 'another device at the same address',
    change: (trees) => {
      const alias = fileOf(trees, NVME, 'modalias')
      put(alias, readFileSync(alias, 'utf8').replace('d0000A808', 'd0000A809'))
      put(fileOf(trees, NVME, 'device'), '0xa809\n')
    },
    code: 'ERR_VFIO_HOST_CHANGED',
    says: /01:00.0 was 144d:a808 when the plan was made, and is 144d:a809 now/,
  },
  {
    name: 'a newcomer in the group',
    change: (trees) => symlinkSync('/', `${trees.sysfs}/kernel/iommu_groups/10/devices/0000:01:00.1`),
    code: 'ERR_VFIO_HOST_CHANGED',
    says: /0000:01:00.1 has come to group 10/,
  },
  {
    name: 'the driver of a sibling that is not taken',
    host: THREE,
    addresses: ['02:00.0', '02:00.1'],
    change: (trees) => {
      symlinkSync('../../../../bus/pci/drivers/vfio-pci', fileOf(trees, '0000:02:00.2', 'driver'))
    },
    code: 'ERR_VFIO_HOST_CHANGED',
    says: /0000:02:00.2 is no longer as it was/,
  },
  {
    name: 'its disk is mounted',
    before: (trees) => disk(trees, NVME, 'nvme0n1', '259:0'),
    change: (trees) =>
      put(`${trees.proc}/self/mountinfo`, `${mountLine('259:0', '/data', 'ext4', '/dev/nvme0n1')}\n`),
    code: 'ERR_VFIO_IN_USE',
    says: /since the plan was made this has come up: nvme0n1 is mounted at \/data.*--force mount/,
  },
  {
    name: 'its disk is swap',
    before: (trees) => disk(trees, NVME, 'nvme0n1', '259:0'),
    change: (trees) =>
      put(
        `${trees.proc}/swaps`,
        'Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/nvme0n1 partition 1024 0 -2\n',
      ),
    code: 'ERR_VFIO_IN_USE',
    says: /since the plan was made this has come up: .*swap/,
  },
  {
    name: 'its interface joins a bridge',
    change: (trees) => {
      const tree = new Tree(dirname(trees.sysfs))
      const path = relative(realpathSync(tree.root), fileOf(trees, NVME, 'net/eth7'))
      tree.file(`${path}/flags`, '0x1003\n')
      tree.linkTo('sys/class/net/eth7', path)
      tree.file('sys/devices/virtual/net/br0/flags', '0x1003\n')
      tree.linkTo('sys/class/net/br0', 'sys/devices/virtual/net/br0')
      tree.link(`${path}/upper_br0`, '../br0')
    },
    code: 'ERR_VFIO_IN_USE',
    says: /since the plan was made this has come up: .*eth7/,
  },
  {
    name: 'virtual functions',
    host: PF,
    change: (trees) => {
      const vf = '0000:01:00.4'
      const directory = `${dirname(fileOf(trees, NVME, 'virtfn0'))}/../${vf}`
      put(`${directory}/modalias`, readFileSync(fileOf(trees, NVME, 'modalias'), 'utf8'))
      symlinkSync(`../${NVME}`, `${directory}/physfn`)
      symlinkSync(`../${vf}`, fileOf(trees, NVME, 'virtfn0'))
      symlinkSync(relative(realpathSync(`${bus(trees)}/devices`), directory), `${bus(trees)}/devices/${vf}`)
    },
    code: 'ERR_VFIO_NOT_VIABLE',
    says: /since the plan was made this has come up: .*virtual functions/,
  },
  {
    name: 'the VFIO driver was unloaded',
    change: (trees) => rmSync(`${bus(trees)}/drivers/vfio-pci`, { recursive: true }),
    code: 'ERR_VFIO_HOST_CHANGED',
    says: /the host has changed since the plan was made: load vfio-pci .* would be needed now as well/,
  },
  {
    name: 'the reset that it had',
    change: (trees) => {
      rmSync(fileOf(trees, NVME, 'reset_method'))
      rmSync(fileOf(trees, NVME, 'reset'), { force: true })
    },
    code: 'ERR_VFIO_HOST_CHANGED',
    says: /the host has changed since the plan was made: reset hot .* would be needed now as well/,
  },
  {
    name: 'one more that the ids fit',
    host: TWINS,
    addresses: ['03:00.0'],
    options: { ids: true },
    change: (trees) => new SimulatedKernel(trees).write(`${bus(trees)}/drivers/igb/unbind`, '0000:05:00.0'),
    code: 'ERR_VFIO_HOST_CHANGED',
    says: /0000:05:00.0 would be taken along/,
  },
]

describe('between plan and apply', function () {
  this.timeout(60_000)
  afterEach(removeDirectories)

  for (const {
    name,
    host = SINGLE,
    addresses = [NVME],
    options = {},
    before,
    change,
    code,
    says,
  } of CHANGES) {
    it(`${name}: nothing is changed, and it is said`, async () => {
      const { trees } = prepare({ host, addresses, options })
      before?.(trees)
      const plan = planOn(trees, addresses, options)
      assert.deepEqual(plan.blockers, [])
      await change(trees)
      const changed = photographOf(trees)
      const kernel = new SimulatedKernel(trees)
      await assert.rejects(assign(plan, using(trees, kernel)), (error: unknown) => {
        assert.ok(error instanceof VfioError, String(error))
        assert.match(error.message, says)
        assert.equal(error.code, code)
        return true
      })
      assert.deepEqual(kernel.calls, [])
      assert.deepEqual(photographOf(trees), changed)
    })
  }

  it('a driver that was loaded meanwhile changes nothing', async () => {
    const host = { ...SINGLE, modules: { ...READY_MODULES, vfio_pci: { state: 'loadable' } } } as const
    const trees = makeKernelHost(host, { drivers: [] })
    const plan = planOn(trees, [NVME])
    await new SimulatedKernel(trees).load('/sbin/modprobe', 'vfio-pci')
    class Loaded extends SimulatedKernel {
      override load(): Promise<void> {
        return Promise.resolve()
      }
    }
    const assignment = await assign(plan, using(trees, new Loaded(trees)))
    assert.equal(basename(readlinkSync(`${bus(trees)}/devices/${NVME}/driver`)), 'vfio-pci')
    await assignment.release()
  })

  it('what was forced when it was planned may come into use', async () => {
    const { trees } = prepare({ host: SINGLE, addresses: [NVME], options: {} })
    disk(trees, NVME, 'nvme0n1', '259:0')
    const plan = planOn(trees, [NVME], { force: ['mount'] })
    put(`${trees.proc}/self/mountinfo`, `${mountLine('259:0', '/data', 'ext4', '/dev/nvme0n1')}\n`)
    await (await assign(plan, using(trees, new SimulatedKernel(trees)))).release()
  })
})
