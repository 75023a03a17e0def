import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { put } from './binding.js'
import { Heard } from './heard.js'
import { choose, isAlone, openByGroup } from './spare.js'

const { address } = choose('device alone in its group', isAlone)
const other = choose('second device', (device) => device.address !== address).address

const uevent = join(process.cwd(), `build/test/${process.arch}/uevent`)
const forged = `remove@/devices/pci0000:00/${address} ACTION=remove SUBSYSTEM=pci LONG=${'x'.repeat(1500)}`
const forge = (way: string, count: number) => execFileSync(uevent, [way, forged, `${count}`])

const kinds = (events: readonly { readonly kind: string }[]) => events.map(({ kind }) => kind)

/** Lets the kernel tell of a device anew. */
const tellOf = (address: string) => writeFileSync(`/sys/bus/pci/devices/${address}/uevent`, 'change')

describe(`what happens to devices on ${release()}`, function () {
  this.timeout(120_000)

  beforeEach(() => put(address, 'none'))
  after(() => put(address, 'host'))

  it('is told of the devices that were asked for: drivers, and their VFIO nodes', async () => {
    using heard = new Heard([address.slice(5)])
    assert.deepEqual(heard.watch.unseen, [])
    tellOf(other)
    put(address, 'vfio-pci')
    const before = await heard.until('bound')
    assert(
      before.every((event) => event.address === address),
      JSON.stringify(before),
    )
    assert.match(before.at(-1)?.what ?? '', /is bound to vfio-pci$/)
    // The file of its group.
    assert(
      before.some(({ what }) => /\/dev\/vfio\/\d+, is there/.test(what)),
      JSON.stringify(before),
    )
    put(address, 'none')
    assert.equal((await heard.next('unbound')).address, address)
  })

  it('is told of all devices', async () => {
    using heard = new Heard('all')
    tellOf(other)
    assert.equal((await heard.next('changed')).address, other)
    tellOf(address)
    assert.equal((await heard.next('changed')).address, address)
  })

  for (const listens of [false, true])
    it(`tells that somebody wants a device back that is open ${listens ? 'with' : 'without'} a request line`, async () => {
      await using opened = await openByGroup(address)
      using heard = new Heard([address])
      const req = opened.device.irq('req')
      if (listens) req.enable()
      const asked = listens ? req.events().next() : null
      const unbound = promisify(execFile)('sh', [
        '-c',
        `echo ${address} > /sys/bus/pci/drivers/vfio-pci/unbind`,
      ])
      const { what } = await heard.next('release-requested')
      assert.match(what, listens ? /is asked to release it/ : /does not listen for that/)
      await asked
      await opened.close()
      await unbound
      await heard.next('unbound')
    })

  it('believes the kernel alone', async () => {
    using heard = new Heard([address])
    for (const way of ['group', 'kernel']) forge(way, 1)
    writeFileSync('/dev/kmsg', `<4>vfio-pci ${address}: Relaying device request to user (#0)`)
    // Twice, so that the log has had its turn.
    for (let turn = 0; turn < 2; turn++) {
      tellOf(address)
      assert.deepEqual(kinds(await heard.until('changed')), ['changed'])
    }
  })

  it('says so where more came than there was room for, and goes on', async () => {
    using heard = new Heard([address])
    // While this thread does not listen.
    forge('kernel', 3000)
    const { address: whose, what } = await heard.next('lost')
    assert.equal(whose, null)
    assert.match(what, /lost \(ENOBUFS\): look at the host anew/)
    tellOf(address)
    await heard.next('changed')
  })
})
