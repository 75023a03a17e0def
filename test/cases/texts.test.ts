import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { assess, Host } from 'vfio'
import { type HostDescription, makeHost, removeDirectories } from '../fixtures/host.js'
import { checkOf, seePlatform } from '../fixtures/platform.js'
import { ROOT } from '../unit/support.js'

const GPU = '0000:01:00.0'
const devices = [{ address: GPU, group: 2, driver: 'nvidia' }]

describe('texts', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  const limits: readonly (readonly [bytes: number, text: string, source: string])[] = [
    [65536, '64 KiB', 'kubevirt/kubevirt#8472, intel/gvt-linux#78: the default of old kernels'],
    [0, '0 bytes', 'LimitMEMLOCK=0'],
    [1000, '1000 bytes', 'setrlimit(2) takes any number'],
    [1024, '1 KiB', 'the smallest of ulimit -l'],
    [1048575, '1023.9 KiB', 'never rounded up to more than there is'],
    [8388608, '8 MiB', 'the default since 5.16'],
    [1610612736, '1.5 GiB', 'a VM of 1.5 GiB'],
    [68719476736, '64 GiB', 'libvirt, hard_limit'],
  ]
  for (const [bytes, text, source] of limits) {
    it(`say how much may be locked: ${text} (${source})`, () => {
      const { detail } = checkOf(
        seePlatform({ devices, memlock: [String(bytes), 'unlimited'] }),
        'locked memory',
      )
      assert.ok(detail.startsWith(`${text} may be locked`), detail)
    })
  }

  /** PCIe 6.x, 7.9 and 7.7, and the registry of the PCI-SIG (PCI Code and ID Assignment); as `lspci` 3.14 knows them. */
  const names: readonly (readonly [id: number, name: string])[] = [
    [0x2d, 'Shadow functions'],
    [0x2e, 'DOE'],
    [0x2f, 'Device 3'],
    [0x30, 'IDE'],
    [0x31, '64 GT/s'],
    [0x32, 'Flit logging'],
    [0x33, 'Flit performance'],
    [0x34, 'Flit error injection'],
    [0x35, 'Streamlined VC'],
    [0x36, 'MMIO register locator'],
  ]
  for (const [id, name] of names) {
    it(`name extended capability 0x${id.toString(16)}: ${name}`, () => {
      const config = new Uint8Array(4096)
      config.set([0x86, 0x80, 0x33, 0x15, 0, 0, 0x10, 0])
      config.set([0x40], 0x34)
      config.set([0x10, 0, 2, 0], 0x40)
      config.set([id, 0, 1, 0], 0x100)
      const seen = new Host(makeHost({ devices: [{ address: GPU, config }] })).snapshot()
      const [first] = seen.device(GPU).capabilities.extended
      assert.deepEqual([first?.id, first?.name], [id, name])
    })
  }

  it('count what has to be bound: one device is not "all of" it', () => {
    const two: HostDescription = {
      devices: [
        { address: GPU, group: 2, driver: 'vfio-pci' },
        { address: '0000:01:00.1', group: 2, driver: 'snd_hda_intel' },
      ],
    }
    const { toBind, reason } = assess(seePlatform(two), GPU)
    assert.deepEqual(toBind, ['0000:01:00.1'])
    assert.match(reason, /once 0000:01:00\.1 is bound to vfio-pci: they share group 2/)
    const both = assess(seePlatform(two), '0000:01:00.1').reason
    assert.match(both, /once it is bound to vfio-pci/)
  })

  describe('of a group that nobody can be given from', () => {
    const trees = (): string =>
      makeHost({
        devices: [{ address: '0000:00:01.0', headerType: 'bridge', secondaryBus: 1, group: 1 }],
        groups: { 0: { others: [{ name: '1000880000.codec', driver: 'hevc' }] }, 2: {} },
      }).sysfs
    const check = (target: string) => {
      const main = join(ROOT, 'dist/cli/main.js')
      return spawnSync(process.execPath, [main, 'check', target, '--sysfs', trees()], { encoding: 'utf8' })
        .stdout
    }

    it('say bridges of bridges alone', () => {
      assert.match(check('group:1'), /no member that could be assigned: only bridges/)
    })

    it('name what is no PCI function (the groups of a Raspberry Pi 5)', () => {
      assert.match(check('group:0'), /no PCI function, only 1000880000\.codec/)
    })

    it('say of an empty one that it is empty', () => {
      assert.match(check('group:2'), /it is empty/)
    })
  })
})
