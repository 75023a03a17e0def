import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, openSync } from 'node:fs'
import { release } from 'node:os'
import { text } from 'node:stream/consumers'
import { Host, openDevice } from 'vfio'
import { skip } from '../fixtures/skip.js'
import { put } from './binding.js'
import { choose, isAlone, openByGroup } from './spare.js'

/** Runs the source of a program that gets these descriptors from 3 on, and then the ids that its device has. */
async function ids(source: string, descriptors: readonly number[], names = ''): Promise<string> {
  const child = spawn(
    'sh',
    ['-c', 'LISTEN_PID=$$ exec "$0" --input-type=module -e "$1"', process.execPath, PRELUDE + source + PRINT],
    {
      stdio: ['ignore', 'pipe', 'inherit', ...descriptors],
      env: { ...process.env, LISTEN_FDS: `${descriptors.length}`, LISTEN_FDNAMES: names },
    },
  )
  const [printed, [code]] = await Promise.all([
    text(child.stdout as NodeJS.ReadableStream),
    once(child, 'close'),
  ])
  assert.equal(code, 0)
  return printed
}

const PRELUDE = `import { Iommufd, VfioDevice, VfioGroup, openGivenDevices } from ${JSON.stringify(import.meta.resolve('vfio'))}
const address = process.env.ADDRESS
`
const PRINT = `
console.log([device.address, device.config.vendor, device.config.device, device.info().pci].join(' '))`

describe(`a program that was given descriptors on ${release()}`, function () {
  this.timeout(120_000)
  const chosen = choose('device alone in its group', isAlone)
  const { address, vendor, device: product } = chosen
  const printed = `${address} ${vendor} ${product} true\n`
  before(() => put(address, 'vfio-pci'))
  beforeEach(() => {
    process.env.ADDRESS = address
  })
  after(() => put(address, 'host'))

  const node = () =>
    `/dev/vfio/devices/${new Host().snapshot({ around: [address] }).device(address).vfioDevice}`

  it('opens a device that is bound to nothing yet, and its address space', async function () {
    if (!existsSync('/dev/iommu')) skip(this, 'this kernel has no iommufd')
    const files = ['/dev/iommu', node()].map((path) => openSync(path, 'r+'))
    try {
      const source = `const opened = await openGivenDevices()
        const [device] = opened.devices`
      assert.equal(await ids(source, files, `iommufd:vfio-${address}`), printed)
    } finally {
      for (const file of files) closeSync(file)
    }
  })

  it('goes on with one that was bound here, in an address space of its own', async function () {
    if (!existsSync('/dev/iommu')) skip(this, 'this kernel has no iommufd')
    await using opened = await openDevice(address, { backend: 'iommufd' })
    const { device, iommufd } = opened
    const source = `const iommufd = Iommufd.fromDescriptor(3)
      const device = await VfioDevice.fromDescriptor(4, { iommufd, devid: ${device.devid} })
      await device.attach(iommufd.allocateIoas())`
    assert.equal(await ids(source, [iommufd.descriptor(), device.descriptor()]), printed)
    // Of this program it has taken nothing.
    assert.equal(device.config.vendor, vendor)
  })

  it('goes on with one that was opened by its group', async () => {
    await using opened = await openByGroup(address)
    const { device, group } = opened
    const source = `const device = await VfioDevice.fromDescriptor(3, { address })
      if (!VfioGroup.fromDescriptor(4).status().containerSet) throw new Error('it is in no container')`
    assert.equal(await ids(source, [device.descriptor(), group.descriptor()]), printed)
    assert.equal(device.config.vendor, vendor)
  })
})
