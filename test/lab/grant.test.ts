import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, lstatSync } from 'node:fs'
import { type Backend, grant, Host, type PciDevice, revoke, type Snapshot } from 'vfio'
import { driverOf, inUse, meetIommu, put } from './binding.js'
import { modes } from './modes.js'

/** nobody: an account that has nothing to do with VFIO. */
const NOBODY = 65534
const JOURNAL = '/run/vfio-grant-test'

/** What a user may do who is not root: open a device through VFIO, in a process of that user's own. */
const OPENS = `
  import { openDevice } from ${JSON.stringify(import.meta.resolve('vfio'))}
  try {
    const opened = await openDevice(process.argv[1], { backend: process.argv[2] })
    console.log(JSON.stringify({ regions: opened.device.info().regions }))
    await opened.close()
  } catch ({ code, message }) {
    console.log(JSON.stringify({ code, message }))
  }`

const identity = (uid: number) => ({
  cwd: '/',
  uid,
  gid: uid,
  // The last three are there where the addon is built with sanitizers.
  env: {
    PATH: process.env.PATH,
    VFIO_ADDON: process.env.VFIO_ADDON,
    LD_PRELOAD: process.env.LD_PRELOAD,
    ASAN_OPTIONS: process.env.ASAN_OPTIONS,
    UBSAN_OPTIONS: process.env.UBSAN_OPTIONS,
  },
})

function openAs(
  uid: number,
  address: string,
  backend: Backend,
): { code?: string; message?: string; regions?: number } {
  const args = ['--input-type=module', '-e', OPENS, address, backend]
  const { stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8', ...identity(uid) })
  assert.notEqual(stdout, '', stderr)
  return JSON.parse(stdout)
}

/** A program of another user that has the device open until it is killed. */
async function holdAs(uid: number, address: string, backend: Backend): Promise<ChildProcess> {
  const source = `${OPENS.replace('await opened.close()', 'setInterval(() => {}, 2 ** 30)')}`
  const holder = spawn(process.execPath, ['--input-type=module', '-e', source, address, backend], {
    stdio: ['ignore', 'pipe', 'inherit'],
    ...identity(uid),
  })
  const [said] = (await once(holder.stdout as NonNullable<typeof holder.stdout>, 'data')) as [Buffer]
  assert.match(said.toString(), /regions/)
  return holder
}

describe('a grant', () => {
  const used = inUse()
  let seen: Snapshot
  let device: PciDevice

  before(() => {
    meetIommu(used)
    const before = new Host().snapshot()
    const fits = before.groups.find(
      ({ members }) =>
        members.length === 1 &&
        members.every((address) => !used.has(address) && before.device(address).headerType === 'normal'),
    )
    const address = fits?.members[0]
    assert(address, 'the topology has a device alone in its group')
    assert.equal(put(address, 'vfio-pci'), 'vfio-pci')
    seen = new Host().snapshot()
    device = seen.device(address)
  })
  after(() => {
    put(device.address, 'none')
  })

  const nodes = () =>
    [`/dev/vfio/${device.group}`, `/dev/vfio/devices/${device.vfioDevice}`, '/dev/iommu', '/dev/vfio/vfio']
      .filter((path) => existsSync(path))
      .map((path) => {
        const { uid, gid, mode } = lstatSync(path)
        return `${path} ${uid}:${gid} ${mode.toString(8)}`
      })

  for (const { name, backend } of modes)
    it(`lets a user open a device by ${name}, who could not before nor afterwards`, async () => {
      const before = nodes()
      const node = `/dev/vfio/${device.group}`
      const refused = openAs(NOBODY, device.address, backend)
      assert.equal(refused.code, 'EACCES')
      assert.ok(refused.message?.includes(backend === 'group' ? node : '/dev/iommu'), refused.message)

      const given = await grant(seen, device.address, { user: 'nobody', memory: 2 ** 30, journal: JOURNAL })
      assert.equal(given.nodes[0]?.path, node)
      const opened = openAs(NOBODY, device.address, backend)
      assert.ok((opened.regions ?? 0) >= 9, JSON.stringify(opened))

      await revoke(device.address, { journal: JOURNAL })
      assert.equal(openAs(NOBODY, device.address, backend).code, 'EACCES')
      assert.deepEqual(nodes(), before)
      assert.equal(existsSync(JOURNAL), false)
    })

  for (const { name, backend } of modes)
    it(`tells on its end who has the device open still by ${name}, and keeps it`, async () => {
      await grant(seen, device.address, { user: 'nobody', journal: JOURNAL })
      const holder = await holdAs(NOBODY, device.address, backend)
      try {
        const { holders } = await revoke(device.address, { journal: JOURNAL })
        assert.ok(
          holders.some((line) => line.includes(`(pid ${holder.pid})`)),
          JSON.stringify(holders),
        )
      } finally {
        holder.kill('SIGKILL')
        await once(holder, 'close')
      }
      await grant(seen, device.address, { user: 'nobody', journal: JOURNAL })
      assert.deepEqual((await revoke(device.address, { journal: JOURNAL })).holders, [])
    })

  it('lets a group open it too', async () => {
    await grant(seen, device.address, { user: 'root', group: NOBODY, journal: JOURNAL })
    for (const { backend } of modes)
      assert.ok((openAs(NOBODY, device.address, backend).regions ?? 0) >= 9, backend)
    await revoke(device.address, { journal: JOURNAL })
  })

  it('gives away the nodes that this kernel has', async () => {
    const { nodes: given } = await grant(seen, device.address, { user: 1000, journal: JOURNAL })
    // The name may be there, and no node: CONFIG_VFIO_DEVICE_CDEV makes those.
    const rest = [`/dev/vfio/devices/${device.vfioDevice}`, '/dev/iommu'].filter((path) => existsSync(path))
    assert.deepEqual(
      given.map(({ path }) => path),
      [`/dev/vfio/${device.group}`, ...rest],
    )
    await revoke(device.address, { journal: JOURNAL })
  })

  it('ends with the node: a new one of the same name is as the kernel makes it', async () => {
    const before = nodes()
    await grant(seen, device.address, { user: 1000, journal: JOURNAL })
    put(device.address, 'none')
    assert.equal(driverOf(device.address), null)
    put(device.address, 'vfio-pci')
    await revoke(device.address, { journal: JOURNAL })
    assert.deepEqual(nodes(), before)
  })
})
