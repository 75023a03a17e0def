import assert from 'node:assert/strict'
import { closeSync, openSync, readFileSync } from 'node:fs'
import fc from 'fast-check'
import { EventFd, type VfioDevice, VfioError, type VfioIrq } from 'vfio'
import { overModes } from './modes.js'
import {
  choose,
  chooseUnlessZpci,
  freeAll,
  growsMsix,
  hasIntx,
  hasMsix,
  isAlone,
  isEdu,
  itWith,
  refused,
  returnAll,
  SLOW,
  spare,
} from './spare.js'

const EDU = { raise: 0x60, status: 0x24, acknowledge: 0x64 }

/** The next deliveries of an interrupt, until each of these vectors was seen. */
async function seen(irq: VfioIrq, vectors: readonly number[]): Promise<Map<number, number>> {
  const counts = new Map<number, number>()
  const missing = new Set(vectors)
  for await (const { vector, count } of irq.events()) {
    counts.set(vector, (counts.get(vector) ?? 0) + count)
    missing.delete(vector)
    if (missing.size === 0) break
  }
  return counts
}

const KINDS = ['intx', 'msi', 'msix', 'err', 'req'] as const
type Kind = (typeof KINDS)[number]

/** The vectors of each kind that the kernel has a handler for. */
function handled(address: string): Record<'intx' | 'msi' | 'msix', number[]> {
  const found = { intx: [] as number[], msi: [] as number[], msix: [] as number[] }
  const text = readFileSync('/proc/interrupts', 'utf8')
  for (const [, kind, vector = '0', where] of text.matchAll(/vfio-(intx|msix?)(?:\[(\d+)\])?\(([^)]+)\)/g))
    if (where === address) found[kind as keyof typeof found].push(Number(vector))
  for (const vectors of Object.values(found)) vectors.sort((a, b) => a - b)
  return found
}

/** ERR and REQ have no handler, and cannot be triggered without an eventfd. */
function hasTrigger(irq: VfioIrq): boolean {
  try {
    irq.trigger()
    return true
  } catch (error) {
    assert.equal((error as VfioError).code, 'EINVAL')
    return false
  }
}

function kindsOf(device: VfioDevice): [Kind, VfioIrq][] {
  return KINDS.flatMap((kind): [Kind, VfioIrq][] => {
    try {
      return device.irqInfo(kind).count > 0 ? [[kind, device.irq(kind)]] : []
    } catch {
      // ERR, where it is not PCI Express.
      return []
    }
  })
}

function checkState(device: VfioDevice, after: string): void {
  const kernel = handled(device.address)
  for (const [kind, irq] of kindsOf(device)) {
    const handlers = kind === 'err' || kind === 'req' ? (hasTrigger(irq) ? [0] : []) : kernel[kind]
    // The handler of a line stays when its eventfd is taken away, until the line is turned off (`vfio_intx_set_signal`).
    const isSilent = kind === 'intx' && irq.vectors.length === 0
    assert.deepEqual(isSilent ? handlers : irq.vectors, handlers, `${kind} after ${after}`)
  }
}

/** Nothing of it is left. */
function checkOff(device: VfioDevice, after: string): void {
  checkState(device, after)
  assert.deepEqual(handled(device.address), { intx: [], msi: [], msix: [] }, after)
}

overModes('interrupts', function ({ open }) {
  this.timeout(120_000)

  const edu = chooseUnlessZpci('edu device alone in its group', (device) => isEdu(device) && isAlone(device))
  const wired = hasIntx ? edu : null
  const rich = choose('device with MSI-X alone in its group', (device) => hasMsix(device) && isAlone(device))

  beforeEach(freeAll)
  after(returnAll)

  itWith('edu device', edu, 'by MSI come from the device itself', async (edu) => {
    await using opened = await open(edu.address)
    const { device } = opened
    const bar = device.region('bar0')
    const msi = device.irq('msi')
    assert.equal(msi.info.count, 1)
    device.config.setCommand({ busMaster: true })
    msi.enable()
    for (const value of [1, 0x80, 0xffffffff]) {
      bar.write32(EDU.raise, value)
      assert.equal((await seen(msi, [0])).get(0), 1)
      assert.equal(bar.read32(EDU.status), value)
      bar.write32(EDU.acknowledge, value)
    }
  })

  itWith(
    'edu device whose INTx comes',
    wired,
    'by INTx are masked by the kernel until they are unmasked',
    async (edu) => {
      await using opened = await open(edu.address)
      const { device } = opened
      const bar = device.region('bar0')
      const intx = device.irq('intx')
      assert.deepEqual([intx.info.maskable, intx.info.automasked], [true, true])
      let count = 0
      using _ = intx.onEvent((event) => {
        count += event.count
      })
      intx.enable()
      bar.write32(EDU.raise, 1)
      assert.equal((await seen(intx, [0])).get(0), 1)
      // The line is still up, and silent.
      bar.write32(EDU.raise, 2)
      bar.write32(EDU.acknowledge, 3)
      intx.unmask()
      bar.write32(EDU.raise, 4)
      await seen(intx, [0])
      assert.equal(count, 2)
      // Unmasked while the line is up it comes again at once.
      intx.unmask()
      await seen(intx, [0])
      assert.equal(count, 3)
      bar.write32(EDU.acknowledge, 4)
      intx.unmask()
      intx.mask()
      bar.write32(EDU.raise, 8)
      intx.unmask()
      await seen(intx, [0])
      assert.equal(count, 4)
      bar.write32(EDU.acknowledge, 8)
      intx.disable()
      assert.deepEqual(intx.vectors, [])
    },
  )

  itWith(
    'edu device whose INTx comes',
    wired,
    'by INTx are unmasked by the eventfd that resamples',
    async (edu) => {
      await using opened = await open(edu.address)
      const { device } = opened
      const bar = device.region('bar0')
      const intx = device.irq('intx')
      using resample = EventFd.create()
      intx.enable()
      intx.resample(resample)
      for (let round = 0; round < 3; round++) {
        bar.write32(EDU.raise, 1)
        await seen(intx, [0])
        bar.write32(EDU.acknowledge, 1)
        resample.signal()
      }
      intx.resample(null)
    },
  )

  itWith('edu device whose INTx comes', wired, 'by INTx survive a storm of a thousand', async (edu) => {
    await using opened = await open(edu.address)
    const { device } = opened
    const bar = device.region('bar0')
    const intx = device.irq('intx')
    intx.enable()
    bar.write32(EDU.raise, 1)
    let count = 0
    // The line stays up, so each unmask brings the next one.
    for await (const event of intx.events()) {
      count += event.count
      if (count >= 1000) break
      intx.unmask()
    }
    bar.write32(EDU.acknowledge, 1)
    assert.equal(count, 1000)
  })

  it('by MSI-X come on every vector', async () => {
    await using opened = await open(rich.address)
    const msix = opened.device.irq('msix')
    const all = Array.from({ length: msix.info.count }, (_, vector) => vector)
    msix.enable({ vectors: all })
    assert.deepEqual(msix.vectors, all)
    for (const vector of all) msix.trigger(vector)
    const counts = await seen(msix, all)
    assert.deepEqual(
      all.map((vector) => counts.get(vector)),
      all.map(() => 1),
    )
  })

  it('by MSI-X come on any subset, and on no other vector', async () => {
    await using opened = await open(rich.address)
    const msix = opened.device.irq('msix')
    msix.enable({ vectors: [4, 1] })
    assert.deepEqual(msix.vectors, [1, 4])
    msix.trigger(2)
    msix.trigger(4)
    msix.trigger(1)
    assert.deepEqual([...(await seen(msix, [1, 4])).keys()].sort(), [1, 4])
    msix.remove([1, 3])
    assert.deepEqual(msix.vectors, [4])
    msix.trigger(1)
    msix.add([2])
    msix.trigger(2)
    assert.deepEqual([...(await seen(msix, [2])).keys()], [2])
    msix.enable()
    assert.deepEqual(msix.vectors, [0])
  })

  it('by MSI-X grow while they are enabled, where the kernel can', async () => {
    await using opened = await open(rich.address)
    const msix = opened.device.irq('msix')
    assert.equal(msix.info.noresize, !growsMsix)
    msix.enable({ vectors: [0] })
    msix.trigger(0)
    const highest = msix.info.count - 1
    if (msix.info.noresize) {
      await refused(
        () => msix.add([highest]),
        'ERR_VFIO_NO_VECTORS',
        /disable\(\) it, and enable\(\) it with all/,
      )
      assert.deepEqual(msix.vectors, [0])
    } else {
      msix.add([highest, 3])
      assert.deepEqual(msix.vectors, [0, 3, highest])
      for (const vector of [3, highest]) msix.trigger(vector)
      // What had come before the growth is not lost by it.
      assert.deepEqual(
        [...(await seen(msix, [0, 3, highest])).keys()].sort((a, b) => a - b),
        [0, 3, highest],
      )
    }
  })

  it('go to eventfds of the caller without polling', async () => {
    await using opened = await open(rich.address)
    const msix = opened.device.irq('msix')
    using own = EventFd.create()
    using other = EventFd.create()
    msix.enable({
      vectors: [0],
      eventfds: new Map<number, EventFd | number>([
        [2, own],
        [1, other.fd],
      ]),
    })
    assert.deepEqual(msix.vectors, [0, 1, 2])
    msix.trigger(2)
    msix.trigger(2)
    msix.trigger(1)
    assert.deepEqual([own.read(), other.read(), own.read()], [2, 1, 0])
    await refused(() => msix.enable({ eventfds: new Map([[0, 0x7fffffff]]) }), 'EBADF', /no eventfd/)
  })

  itWith('edu device', edu, 'of one kind exclude those of another', async (edu) => {
    await using opened = await open(edu.address)
    const { device } = opened
    device.irq('intx').enable()
    await refused(() => device.irq('msi').enable(), 'EINVAL', /disable\(\) it first/)
    device.irq('intx').disable()
    device.irq('msi').enable()
    await refused(() => device.irq('intx').enable(), 'EINVAL', /disable\(\) it first/)
    await refused(() => device.irq('msi').mask(), 'ENOTTY', /for INTx/)
    await refused(() => device.irq('msix').enable(), 'ERR_VFIO_NO_VECTORS', /has no msix/)
    await refused(() => device.irq('msi').trigger(1), 'ERR_VFIO_BAD_ARGUMENT')
    await refused(() => device.irq('msi').enable({ vectors: [0, 1] }), 'ERR_VFIO_BAD_ARGUMENT')
    await refused(() => device.irq('msi').enable({ vectors: [] }), 'ERR_VFIO_BAD_ARGUMENT')
  })

  it('for errors and for a request to let go are there to be listened to', async () => {
    const express = choose('PCI Express device', ({ capabilities }) => capabilities.pcie !== null)
    await using opened = await open(express.address)
    const names = ['req', ...(opened.device.irqInfo('req').count ? ['err'] : [])] as ('req' | 'err')[]
    for (const name of names) {
      const irq = opened.device.irq(name)
      irq.enable()
      irq.trigger()
      assert.equal((await seen(irq, [0])).get(0), 1, name)
      irq.disable()
    }
  })

  it('of every kind are turned off and on again, by whatever call', async () => {
    for (const { address } of [edu, rich].filter((device) => device !== null)) {
      await using opened = await open(address)
      const { device } = opened
      for (const [kind, irq] of kindsOf(device)) {
        for (const off of [() => irq.disable(), () => irq.remove([0])]) {
          irq.enable()
          checkState(device, `${kind} was enabled`)
          off()
          checkState(device, `${kind} was turned off`)
          irq.disable()
          irq.add([0])
          checkState(device, `${kind} was added`)
          off()
          irq.disable()
          checkOff(device, `${kind} was turned off again`)
        }
      }
      await refused(() => device.irq('req').enable({ eventfds: new Map([[0, 0x7fffffff]]) }), 'EBADF')
      device.irq('req').disable()
      checkState(device, 'req was refused')
    }
  })

  it('are on and off as the kernel has them after every call, whatever was refused', async () => {
    const SEED = 20_261_125
    const plain = openSync('/dev/null', 'r')
    const vector = fc.nat(7)
    const eventfd = fc.constantFrom('own' as const, 'plain' as const, 'closed' as const)
    const step = fc.record({
      kind: fc.constantFrom(...KINDS),
      do: fc.constantFrom('enable' as const, 'add' as const, 'remove' as const, 'disable' as const),
      vectors: fc.uniqueArray(vector, { minLength: 1, maxLength: 3 }),
      given: fc.option(fc.tuple(vector, eventfd)),
    })
    let refusals = 0
    for (const { address } of [edu, rich].filter((device) => device !== null)) {
      await using opened = await open(address)
      const { device } = opened
      using own = EventFd.create()
      const numbers = { own: own.fd, plain, closed: 0x7fffffff }
      const kinds = new Map(kindsOf(device))
      const property = fc.property(fc.array(step, { minLength: 1, maxLength: 15 }), (steps) => {
        for (const each of steps) {
          const irq = kinds.get(each.kind)
          if (!irq) continue
          const vectors = [...new Set(each.vectors.map((vector) => vector % irq.info.count))]
          const eventfds = new Map(
            each.given ? [[each.given[0] % irq.info.count, numbers[each.given[1]]] as const] : [],
          )
          try {
            if (each.do === 'enable') irq.enable({ vectors, eventfds })
            else if (each.do === 'add') irq.add(eventfds.size > 0 ? eventfds : vectors)
            else if (each.do === 'remove') irq.remove(vectors)
            else irq.disable()
          } catch (error) {
            refusals++
            assert(error instanceof VfioError, String(error))
            assert(each.do === 'enable' || each.do === 'add', `${each.do} of ${each.kind}: ${error}`)
          }
          checkState(device, JSON.stringify(each))
        }
        for (const irq of kinds.values()) irq.disable()
        checkOff(device, 'the end')
      })
      fc.assert(property, { seed: SEED, numRuns: SLOW ? 15 : 60 })
    }
    closeSync(plain)
    assert(refusals > (SLOW ? 5 : 20), `only ${refusals} calls were refused`)
  })

  itWith(
    'edu device whose INTx comes',
    wired,
    'by INTx are unmasked by one eventfd after another',
    async (edu) => {
      await using opened = await open(edu.address)
      const { device } = opened
      const bar = device.region('bar0')
      const intx = device.irq('intx')
      using first = EventFd.create()
      using second = EventFd.create()
      intx.enable()
      for (const resample of [first, second, first]) {
        intx.resample(resample)
        await refused(() => intx.resample(0x7fffffff), 'EBADF')
        bar.write32(EDU.raise, 1)
        await seen(intx, [0])
        bar.write32(EDU.acknowledge, 1)
        resample.signal()
        bar.write32(EDU.raise, 1)
        await seen(intx, [0])
        bar.write32(EDU.acknowledge, 1)
        intx.unmask()
      }
      intx.resample(null)
      intx.resample(null)
      // Turning it off ends it too.
      intx.resample(first)
      intx.disable()
      intx.enable()
      intx.resample(first)
      intx.disable()
    },
  )

  itWith('edu device', edu, 'of two devices come each to its own', async (edu) => {
    await using first = await open(edu.address)
    await using second = await open(rich.address)
    const [msi, msix] = [first.device.irq('msi'), second.device.irq('msix')]
    msi.enable()
    msix.enable({ vectors: [1] })
    const both = Promise.all([seen(msi, [0]), seen(msix, [1])])
    msi.trigger()
    msix.trigger(1)
    assert.deepEqual(await both, [new Map([[0, 1]]), new Map([[1, 1]])])
    await second.close()
    msi.trigger()
    assert.equal((await seen(msi, [0])).get(0), 1)
  })

  it('end with the device', async () => {
    const opened = await open(rich.address)
    const msix = opened.device.irq('msix')
    msix.enable()
    const over = (async () => {
      for await (const event of msix.events()) assert.fail(`unexpected ${event.vector}`)
      return 'over'
    })()
    await opened.close()
    assert.equal(await over, 'over')
    for (const call of [
      () => msix.enable(),
      () => msix.trigger(),
      () => msix.disable(),
      () => msix.events(),
      () => msix.onEvent(() => {}),
      () => opened.device.irq('intx'),
    ]) {
      await refused(call, 'ERR_VFIO_CLOSED')
    }
  })

  it('of every device can be enabled, each kind that it has', async () => {
    for (const { address } of spare.filter(isAlone)) {
      await using opened = await open(address)
      for (const name of ['intx', 'msi', 'msix'] as const) {
        const irq = opened.device.irq(name)
        if (irq.info.count === 0) continue
        irq.enable()
        irq.trigger()
        assert.equal((await seen(irq, [0])).get(0), 1, `${name} of ${address}`)
        irq.disable()
      }
    }
  })
})
