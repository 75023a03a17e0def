import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { exportQemu, Host, planAssignment, VfioError } from 'vfio'
import { makeHost, removeDirectories } from '../fixtures/host.js'
import { ROOT } from '../unit/support.js'

const GPU = { vendor: 0x10de, device: 0x2504, class: 0x030000, driver: 'nouveau', group: 2 } as const
const AUDIO = { vendor: 0x10de, device: 0x228e, class: 0x040300, driver: 'snd_hda_intel', group: 2 } as const
const code = (error: unknown) => (error instanceof VfioError ? error.code : String(error))

/** Addresses as other programs print them and people paste them. */
describe('addresses as they come', () => {
  const trees = makeHost({
    devices: [
      { address: '0000:00:01.0', headerType: 'bridge', secondaryBus: 1, driver: 'pcieport', group: 1 },
      { address: '0000:01:00.0', ...GPU },
      { address: '0000:01:00.1', ...AUDIO },
      { address: '0000:1f:00.0', group: 5 },
      { address: '0001:02:00.0', group: 6 },
      { address: '0001:1f:00.0', group: 7 },
    ],
  })
  after(removeDirectories)
  const seen = new Host(trees).snapshot()

  const WAYS: readonly [from: string, text: string][] = [
    ['lspci', '01:00.0'],
    ['lspci -D', '0000:01:00.0'],
    ['nvidia-smi', '00000000:01:00.0'],
    ['a person', '1:0.0'],
    ['Windows and upper case', '0000:01:00.0'.toUpperCase()],
    ['virsh nodedev-list', 'pci_0000_01_00_0'],
    ['sysfs', '/sys/bus/pci/devices/0000:01:00.0'],
    ['a shell that completes', '/sys/bus/pci/devices/0000:01:00.0/'],
    ['readlink -f', '/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0'],
    ['lshw', 'pci@0000:01:00.0'],
    ['udev (ID_PATH)', 'pci-0000:01:00.0'],
    ['libvirt, in words', 'domain=0x0000 bus=0x01 slot=0x00 function=0x0'],
    ['libvirt XML', "<address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>"],
    ['libvirt, with double quotes', 'bus="0x01" slot="0x00" function="0x0"'],
    ['libvirt in short', '0x0000:0x01:0x00.0x0'],
  ]
  for (const [from, text] of WAYS) {
    it(`from ${from}: ${text}`, () => assert.equal(seen.device(text).address, '0000:01:00.0'))
  }

  it('name a device, and all of its functions, where the function is left out', () => {
    const both = ['0000:01:00.0', '0000:01:00.1']
    for (const text of ['01:00', '1:0', '0000:01:00', 'bus=0x01 slot=0x00']) {
      assert.deepEqual(
        seen.devicesAt(text).map(({ address }) => address),
        both,
        text,
      )
      assert.deepEqual(planAssignment(seen, [text]).addresses, both, text)
    }
    assert.match(exportQemu(seen, ['01:00']).text, /host=0000:01:00\.0.*\n.*host=0000:01:00\.1/)
    const part = new Host(trees).snapshot({ around: ['01:00'] })
    assert.equal(part.devicesAt('01:00').length, 2)
    assert.equal(part.has('0000:1f:00.0'), false)
  })

  it('are refused with all that they may mean, where one is wanted', () => {
    assert.throws(
      () => seen.device('01:00'),
      (error) =>
        code(error) === 'ERR_VFIO_BAD_ADDRESS' &&
        /0000:01:00\.0, 0000:01:00\.1/.test((error as Error).message),
    )
    assert.equal(seen.device('1f:00').address, '0000:1f:00.0')
  })

  it('mean the first domain, and tell of others where that has no such device', () => {
    assert.equal(seen.device('1f:00.0').address, '0000:1f:00.0')
    assert.throws(() => seen.device('02:00.0'), /0000:02:00\.0 .*in another domain there is 0001:02:00\.0/)
    assert.throws(
      () => seen.devicesAt('07:00'),
      (error) => code(error) === 'ERR_VFIO_NO_DEVICE',
    )
  })

  // QEMU and Xorg count in decimal, libvirt takes 010 for octal: what may mean another device is no address.
  for (const text of [
    'PCI:1:0:0',
    'bus=16 slot=0 function=0',
    'bus=0x01 slot=0x20 function=0x0',
    'bus=0x01 function=0x0',
    'bus=010 slot=0x00',
    '01:00.0.0',
    '0000_01_00_0',
    '/sys/bus/pci/devices/',
    'pci_0000_01_00',
    '01:20',
    '100:00.0',
  ]) {
    it(`refuse ${text}`, () =>
      assert.throws(
        () => seen.devicesAt(text),
        (error) => code(error) === 'ERR_VFIO_BAD_ADDRESS',
      ))
  }

  it('work on the command line', () => {
    const vfio = (...args: string[]) =>
      spawnSync(process.execPath, [join(ROOT, 'dist/cli/main.js'), ...args, '--sysfs', trees.sysfs], {
        encoding: 'utf8',
      })
    assert.deepEqual(JSON.parse(vfio('check', '01:00', '--json').stdout).length, 2)
    assert.equal(JSON.parse(vfio('check', 'pci_0000_01_00_1', '--json').stdout).address, '0000:01:00.1')
    assert.match(vfio('bind', '01:00', '--dry-run').stdout, /0000:01:00\.1\/driver\/unbind/)
    const { status, stderr } = vfio('show', '01:00')
    assert.deepEqual([status, stderr.includes('0000:01:00.0, 0000:01:00.1')], [2, true])
  })
})
