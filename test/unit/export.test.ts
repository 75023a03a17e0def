import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { closeSync, existsSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import {
  exportCloudHypervisor,
  exportLibvirt,
  exportQemu,
  type LibvirtOptions,
  lockedMemory,
  parseSize,
  parseZpci,
  type QemuOptions,
  type Snapshot,
  VfioError,
} from 'vfio'
import { qemuOption } from '../../lib/export/qemu.js'
import type { DeviceDescription } from '../fixtures/host.js'
import { removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { skip } from '../fixtures/skip.js'
import { SEED, see } from './support.js'

const DEVICES: readonly DeviceDescription[] = [
  { address: '0000:00:01.0', headerType: 'bridge', secondaryBus: 0x59 },
  { address: '0000:00:03.0', driver: 'nvme', group: 6 },
  { address: '0000:00:04.0', driver: 'vfio-pci', group: 7 },
  { address: '0000:59:00.0', driver: 'vfio-pci', group: 5, multifunction: true },
  { address: '0000:59:00.1', driver: 'vfio-pci', group: 5 },
  { address: '0000:59:00.3', driver: 'vfio-pci', group: 5 },
  { address: '0000:60:00.0', driver: 'igb', group: 8, totalVfs: 4 },
  { address: '0000:60:10.0', driver: 'vfio-pci', group: 9, physfn: '0000:60:00.0' },
  { address: '0000:60:10.1', driver: 'vfio-pci', group: 10, physfn: '0000:60:00.0' },
  { address: '10000:e1:00.0', driver: 'vfio-pci', group: 11 },
]
const GPU = ['0000:59:00.0', '0000:59:00.1', '0000:59:00.3']

const isCode = (code: string) => (error: unknown) => error instanceof VfioError && error.code === code

describe('export', () => {
  let seen: Snapshot
  before(() => {
    seen = see({ devices: DEVICES })
  })
  after(removeDirectories)

  describe('qemu', () => {
    it('writes a comma within a value twice, as QEMU reads it', () => {
      assert.equal(
        qemuOption({ 'vfio-pci': null, sysfsdev: '/sys/a,b', id: 'x', bus: undefined, addr: 5 }),
        'vfio-pci,sysfsdev=/sys/a,,b,id=x,addr=5',
      )
    })

    const lines = (addresses: readonly string[], options?: QemuOptions) =>
      exportQemu(seen, addresses, options).text.replaceAll(' \\\n', '\n').trim().split('\n')

    it('puts a device below a port of its own', () => {
      assert.deepEqual(lines(['00:04.0']), [
        '-device pcie-root-port,id=vfio-port0,bus=pcie.0,chassis=100,slot=1',
        '-device vfio-pci,host=0000:00:04.0,id=vfio0,bus=vfio-port0,addr=00.0',
      ])
    })

    it('has descriptors that are passed in place of what it would open, and further properties', () => {
      const devices = { '0000:59:00.0': 4, '0000:59:00.1': 5 }
      const options = {
        descriptors: { iommufd: 3, devices },
        properties: { 'x-no-mmap': 'on', romfile: '/a,b' },
      }
      assert.deepEqual(lines(['59:00.0', '59:00.1'], options), [
        '-object iommufd,id=iommufd0,fd=3',
        '-device pcie-root-port,id=vfio-port0,bus=pcie.0,chassis=100,slot=1',
        '-device vfio-pci,fd=4,id=vfio0,bus=vfio-port0,addr=00.0,multifunction=on,iommufd=iommufd0,x-no-mmap=on,romfile=/a,,b',
        '-device vfio-pci,fd=5,id=vfio1,bus=vfio-port0,addr=00.1,iommufd=iommufd0,x-no-mmap=on,romfile=/a,,b',
      ])
      for (const properties of [
        { host: 'x' },
        { fd: '9' },
        { 'a,b': 'x' },
        { '': 'x' },
        { x: 1 as never },
        { x: '\0' },
      ])
        assert.throws(() => exportQemu(seen, ['59:00.0'], { properties }), isCode('ERR_VFIO_BAD_ARGUMENT'))
    })

    it('keeps the functions of a device together, whatever the order', () => {
      assert.deepEqual(lines(['59:00.3', '00:04.0', '59:00.0', '59:00.1', '59:00.0']), [
        '-device pcie-root-port,id=vfio-port0,bus=pcie.0,chassis=100,slot=1',
        '-device vfio-pci,host=0000:00:04.0,id=vfio0,bus=vfio-port0,addr=00.0',
        '-device pcie-root-port,id=vfio-port1,bus=pcie.0,chassis=100,slot=2',
        '-device vfio-pci,host=0000:59:00.0,id=vfio1,bus=vfio-port1,addr=00.0,multifunction=on',
        '-device vfio-pci,host=0000:59:00.1,id=vfio2,bus=vfio-port1,addr=00.1',
        '-device vfio-pci,host=0000:59:00.3,id=vfio3,bus=vfio-port1,addr=00.3',
      ])
    })

    it('gives a slot a function 0 where the one of the host stays there', () => {
      assert.match(
        lines(['59:00.1', '59:00.3']).join('\n'),
        /59:00\.1.*addr=00\.0,multi[\s\S]*59:00\.3.*addr=00\.3/,
      )
    })

    it('takes each virtual function for a device', () => {
      assert.equal(lines(['60:10.0', '60:10.1']).filter((line) => line.includes('root-port')).length, 2)
    })

    it('opens through iommufd', () => {
      const [object, , device] = lines(['00:04.0'], { iommufd: true })
      assert.equal(object, '-object iommufd,id=iommufd0')
      assert.match(device ?? '', /^-device vfio-pci,host=0000:00:04\.0,.*,iommufd=iommufd0$/)
    })

    it('uses the one bus of pc, and names slots for shared ones', () => {
      assert.deepEqual(lines(['00:04.0', ...GPU.slice(0, 2)], { machine: 'pc-i440fx-9.2' }), [
        '-device vfio-pci,host=0000:00:04.0,id=vfio0,bus=pci.0',
        '-device vfio-pci,host=0000:59:00.0,id=vfio1,bus=pci.0,addr=10.0,multifunction=on',
        '-device vfio-pci,host=0000:59:00.1,id=vfio2,bus=pci.0,addr=10.1',
      ])
    })

    it('makes zPCI functions for s390', () => {
      assert.deepEqual(lines(['00:04.0', '59:00.0'], { zpci: { uid: 0x10, fid: 2 } }), [
        '-device zpci,id=vfio-zpci0,target=vfio0,uid=16,fid=2',
        '-device zpci,id=vfio-zpci1,target=vfio1,uid=17,fid=3',
        '-device vfio-pci,host=0000:00:04.0,id=vfio0,bus=pci.0',
        '-device vfio-pci,host=0000:59:00.0,id=vfio1,bus=pci.0',
      ])
    })

    it('goes to a guest address, on the root bus or below a port', () => {
      assert.match(lines(['00:04.0'], { guestAddress: '00:05.0' }).join('\n'), /,bus=pcie\.0,addr=05\.0$/)
      assert.match(lines(['00:04.0'], { guestAddress: '06:00.0' }).join('\n'), /,bus=pci\.6,addr=00\.0$/)
      assert.match(
        lines(['00:04.0', ...GPU], { guestAddress: '00:05.0' }).join('\n'),
        /addr=05\.0\n.*addr=06\.0,multifunction=on\n.*addr=06\.1\n.*addr=06\.3$/,
      )
    })

    it('names a device of a wide domain by its path, which QEMU has no shorter word for', () => {
      assert.match(
        lines(['10000:e1:00.0']).join('\n'),
        /vfio-pci,sysfsdev=\/sys\/bus\/pci\/devices\/10000:e1:00\.0,/,
      )
    })

    it('says what has to be bound before', () => {
      assert.deepEqual(exportQemu(seen, ['00:04.0']).notes, [])
      assert.match(exportQemu(seen, ['00:03.0']).notes.join(), /vfio bind 0000:00:03\.0"/)
    })

    it('gives the arguments one by one, as the shell makes them of the text', () => {
      const { text, arguments: words } = exportQemu(seen, [...GPU, '10000:e1:00.0'], { iommufd: true })
      const { stdout } = spawnSync('/bin/sh', ['-c', `printf '%s\\n' ${text}`], { encoding: 'utf8' })
      assert.deepEqual(stdout.trim().split('\n'), words)
    })

    const qemu = (...args: string[]) => spawnSync('qemu-system-x86_64', args, { encoding: 'utf8' })

    it('uses no property that QEMU does not have', function () {
      if (qemu('--version').error) return skip(this, 'qemu-system-x86_64 is not installed')
      const { arguments: words } = exportQemu(seen, [...GPU, '10000:e1:00.0'], { iommufd: true })
      for (const [index, word] of words.entries()) {
        if (words[index - 1] !== '-device') continue
        const [type = '', ...properties] = word.split(',')
        const { stdout } = qemu('-device', `${type},help`)
        const known = ['id', 'bus', ...Array.from(stdout.matchAll(/^ {2}([\w-]+)=/gm), ([, name]) => name)]
        for (const property of properties)
          assert.ok(known.includes(property.split('=')[0]), `${type} ${property}`)
      }
      assert.match(qemu('-object', 'help').stdout, /\biommufd\b/)
    })

    const LAYOUTS: readonly [string, string, QemuOptions, number][] = [
      ['q35', 'one of each', {}, 6],
      ['q35', 'on the root bus', { guestAddress: '00:05.0' }, 6],
      ['pc', 'one of each', {}, 6],
      ['q35', 'sixty slots', {}, 60],
    ]
    for (const [machine, what, options, count] of LAYOUTS) {
      it(`is laid out as a real QEMU takes it: ${machine}, ${what}`, function () {
        if (qemu('--version').error) return skip(this, 'qemu-system-x86_64 is not installed')
        const many = see({
          devices: Array.from({ length: count }, (_none, index) => ({
            address: `0000:${(0x20 + index).toString(16)}:00.0`,
            group: index,
          })),
        })
        const source = count > 10 ? many : seen
        const addresses =
          count > 10 ? many.devices.map(({ address }) => address) : [...GPU, '00:04.0', '60:10.0']
        const { arguments: words, devices } = exportQemu(source, addresses, { ...options, machine })
        // A stand-in with the same places, since there is no such device here.
        const stand = words.map((word) => word.replace(/^vfio-pci,(host|sysfsdev)=[^,]*/, 'edu'))
        const args = [
          '-machine',
          machine,
          '-nodefaults',
          '-display',
          'none',
          '-S',
          '-monitor',
          'stdio',
          ...stand,
        ]
        // The monitor drops what a pipe has no room for when it quits; a file has.
        const file = join(temporaryDirectory(), 'monitor')
        const output = openSync(file, 'w')
        const { stderr, status } = spawnSync('qemu-system-x86_64', args, {
          encoding: 'utf8',
          input: 'info qtree\nquit\n',
          stdio: ['pipe', output, 'pipe'],
          timeout: 100_000,
        })
        closeSync(output)
        assert.equal(status, 0, stderr)
        const said = readFileSync(file, 'utf8')
        for (const { id } of devices) assert.ok(said.includes(`dev: edu, id "${id}"`), id)
      })
    }
  })

  describe('libvirt', () => {
    it('describes a device that libvirt binds itself', () => {
      assert.equal(
        exportLibvirt(seen, ['00:03.0']).text,
        `<hostdev mode='subsystem' type='pci' managed='yes'>
  <driver name='vfio'/>
  <source>
    <address domain='0x0000' bus='0x00' slot='0x03' function='0x0'/>
  </source>
</hostdev>
`,
      )
      assert.deepEqual(exportLibvirt(seen, ['00:03.0']).notes, [])
      assert.match(exportLibvirt(seen, ['00:03.0'], { managed: false }).notes.join(), /vfio bind/)
    })

    it('keeps functions together in one slot', () => {
      const { devices } = exportLibvirt(seen, [...GPU, '00:04.0'], { managed: false })
      const guest = devices.map(({ xml }) => /<address type='pci' (.*)\/>/.exec(xml)?.[1] ?? null)
      assert.deepEqual(guest, [
        null,
        "domain='0x0000' bus='0x10' slot='0x00' function='0x0' multifunction='on'",
        "domain='0x0000' bus='0x10' slot='0x00' function='0x1'",
        "domain='0x0000' bus='0x10' slot='0x00' function='0x3'",
      ])
    })

    const SCHEMAS = process.env.LIBVIRT_SCHEMAS ?? '/usr/share/libvirt/schemas'
    const knowsIommufd = () => readFileSync(join(SCHEMAS, 'basictypes.rng'), 'utf8').includes('iommufd')
    const CASES: readonly [string, readonly string[], LibvirtOptions][] = [
      ['a device', ['00:03.0'], {}],
      ['unmanaged', ['00:04.0'], { managed: false }],
      ['all kinds', [...GPU, '00:04.0', '60:10.0', '10000:e1:00.0'], {}],
      ['pc', [...GPU, '00:04.0'], { machine: 'pc' }],
      ['a guest address', [...GPU, '00:04.0'], { guestAddress: '07:00.0' }],
      ['zPCI', ['00:04.0', '59:00.0'], { zpci: { uid: 1 } }],
      [
        'zPCI with everything',
        ['00:04.0'],
        { zpci: { uid: 0xffff, fid: 0xffffffff }, guestAddress: '00:08.0' },
      ],
      ['iommufd', GPU, { iommufd: true }],
    ]
    for (const [what, addresses, options] of CASES) {
      it(`validates against libvirt's own schema: ${what}`, function () {
        if (!existsSync(join(SCHEMAS, 'domain.rng')) || spawnSync('xmllint', ['--version']).error)
          return skip(this, 'libvirt0 or libvirt-common, and libxml2-utils, are not installed')
        if (options.iommufd && !knowsIommufd())
          return skip(this, 'this libvirt is older than 12 and knows no iommufd')
        const { text } = exportLibvirt(seen, addresses, options)
        const { status, stderr } = validate(domain(text))
        assert.equal(status, 0, `${stderr}\n${text}`)
      })
    }

    it('would not validate if it were wrong', function () {
      if (!existsSync(join(SCHEMAS, 'domain.rng')) || spawnSync('xmllint', ['--version']).error)
        return skip(this, 'libvirt0 or libvirt-common, and libxml2-utils, are not installed')
      const { text } = exportLibvirt(seen, ['00:04.0'])
      assert.notEqual(validate(domain(text.replace("name='vfio'", "name='vfoi'"))).status, 0)
    })

    const domain = (devices: string) =>
      `<domain type='kvm'><name>test</name><memory>1048576</memory><os><type>hvm</type></os><devices>${devices}</devices></domain>`
    const validate = (xml: string) => {
      const file = join(temporaryDirectory(), 'domain.xml')
      writeFileSync(file, xml)
      const args = ['--noout', '--relaxng', join(SCHEMAS, 'domain.rng'), file]
      return spawnSync('xmllint', args, { encoding: 'utf8' })
    }
  })

  describe('cloud-hypervisor', () => {
    it('has one option with all devices', () => {
      const { text, notes } = exportCloudHypervisor(seen, GPU.slice(0, 2), {
        iommufd: true,
        guestAddress: '1:00:04.0'.padStart(12, '0'),
      })
      assert.equal(
        text,
        '--platform num_pci_segments=2,iommufd=on \\\n--device path=/sys/bus/pci/devices/0000:59:00.0,id=vfio0,pci_segment=1,pci_device_id=4 path=/sys/bus/pci/devices/0000:59:00.1,id=vfio1,pci_segment=1,pci_device_id=5\n',
      )
      assert.match(notes.join(), /no multifunction devices/)
    })

    /** What its own parser takes (vmm/src/config.rs): known keys, and segments and slots that there are. */
    function parse(words: readonly string[]): void {
      const options = new Map<string, string[]>()
      let values: string[] = []
      for (const word of words) {
        if (word.startsWith('--')) {
          assert(!options.has(word), `${word} twice`)
          values = []
          options.set(word, values)
        } else values.push(word)
      }
      assert.deepEqual(
        [...options.keys()].filter((name) => !['--platform', '--device'].includes(name)),
        [],
      )
      const fields = (text: string, known: readonly string[]) => {
        const entries = text.split(',').map((field) => field.split('=') as [string, string])
        for (const [key, value] of entries)
          assert(known.includes(key) && /^[^"[\]]+$/.test(value), `${key}=${value}`)
        assert.equal(new Set(entries.map(([key]) => key)).size, entries.length)
        return new Map(entries)
      }
      const [platform, ...more] = options.get('--platform') ?? ['num_pci_segments=1']
      assert.deepEqual(more, [])
      const segments = Number(
        fields(platform ?? '', ['num_pci_segments', 'iommufd']).get('num_pci_segments') ?? 1,
      )
      assert(segments >= 1 && segments <= 96, `${segments} segments`)
      const places = new Set<string>()
      const ids = new Set<string>()
      for (const value of options.get('--device') ?? []) {
        const device = fields(value, ['path', 'id', 'iommu', 'pci_segment', 'pci_device_id'])
        assert(device.has('path'))
        const segment = Number(device.get('pci_segment') ?? 0)
        assert(segment < segments, `segment ${segment} of ${segments}`)
        const slot = device.get('pci_device_id')
        if (slot !== undefined) {
          assert(Number(slot) < 32 && (Number(slot) > 0 || segment > 0), `slot ${slot}`)
          assert(!places.has(`${segment} ${slot}`))
          places.add(`${segment} ${slot}`)
        }
        const id = device.get('id')
        // Names with an underscore in front are its own.
        assert(id !== undefined && !id.startsWith('_') && !ids.has(id))
        ids.add(id)
      }
      assert(ids.size > 0)
    }

    it('says what its parser takes', () => {
      for (const iommufd of [false, true]) {
        for (const guestAddress of [undefined, '00:01.0', '00:1e.0', '0005:00:04.0', '005f:00:1e.0']) {
          parse(exportCloudHypervisor(seen, GPU.slice(0, 2), { iommufd, guestAddress }).arguments)
        }
      }
      assert.throws(
        () => exportCloudHypervisor(seen, GPU, { guestAddress: '0060:00:04.0' }),
        isCode('ERR_VFIO_BAD_ARGUMENT'),
      )
    })

    it('has no other bus than 0', () => {
      assert.throws(
        () => exportCloudHypervisor(seen, ['00:04.0'], { guestAddress: '01:00.0' }),
        isCode('ERR_VFIO_BAD_ARGUMENT'),
      )
    })
  })

  describe('refuses', () => {
    const WRONG: readonly [string, () => unknown, string][] = [
      ['no device', () => exportQemu(seen, []), 'ERR_VFIO_BAD_ARGUMENT'],
      ['a bridge', () => exportLibvirt(seen, ['00:01.0']), 'ERR_VFIO_BAD_ARGUMENT'],
      ['a device that is not there', () => exportQemu(seen, ['77:00.0']), 'ERR_VFIO_NO_DEVICE'],
      ['no address', () => exportQemu(seen, ['gpu']), 'ERR_VFIO_BAD_ADDRESS'],
      ['an unknown machine', () => exportQemu(seen, GPU, { machine: 'q35;reboot' }), 'ERR_VFIO_BAD_ARGUMENT'],
      [
        'zPCI elsewhere',
        () => exportQemu(seen, GPU, { machine: 'q35', zpci: { uid: 1 } }),
        'ERR_VFIO_BAD_ARGUMENT',
      ],
      ['uid 0', () => exportLibvirt(seen, GPU, { zpci: { uid: 0 } }), 'ERR_VFIO_BAD_ARGUMENT'],
      ['uids that run out', () => exportQemu(seen, GPU, { zpci: { uid: 0xffff } }), 'ERR_VFIO_BAD_ARGUMENT'],
      ['a guest function', () => exportQemu(seen, GPU, { guestAddress: '05:00.1' }), 'ERR_VFIO_BAD_ARGUMENT'],
      ['the host bridge', () => exportQemu(seen, GPU, { guestAddress: '00:00.0' }), 'ERR_VFIO_BAD_ARGUMENT'],
      [
        'a guest address that is none',
        () => exportQemu(seen, GPU, { guestAddress: '5' }),
        'ERR_VFIO_BAD_ADDRESS',
      ],
      [
        'slots that run out',
        () => exportQemu(seen, ['00:04.0', ...GPU], { guestAddress: '00:1f.0' }),
        'ERR_VFIO_BAD_ARGUMENT',
      ],
    ]
    for (const [what, act, code] of WRONG) it(what, () => assert.throws(act, isCode(code)))
  })

  it(`answers any input with text of safe words, or with a typed error (seed ${SEED})`, () => {
    const address = fc.oneof(fc.constantFrom(...DEVICES.map((device) => device.address)), fc.string())
    const options = fc.record(
      {
        machine: fc.oneof(fc.constantFrom('q35', 'pc', 'virt', 's390-ccw-virtio'), fc.string()),
        guestAddress: fc.oneof(fc.constantFrom('00:05.0', '05:00.0', '00:1f.0'), fc.string()),
        iommufd: fc.boolean(),
        zpci: fc.record({ uid: fc.integer() }),
      },
      { requiredKeys: [] },
    )
    fc.assert(
      fc.property(fc.array(address, { maxLength: 5 }), options, (addresses, chosen) => {
        for (const act of [exportQemu, exportLibvirt, exportCloudHypervisor]) {
          try {
            assert.doesNotMatch(act(seen, addresses, chosen).text, /[$`;&|"()]/)
          } catch (error) {
            if (!(error instanceof VfioError)) throw error
          }
        }
      }),
    )
  })

  describe('amounts', () => {
    it('reads sizes', () => {
      assert.deepEqual(['16G', '512MiB', '1.5g', '1048576', '2 TB', '4k'].map(parseSize), [
        16 * 2 ** 30,
        2 ** 29,
        1.5 * 2 ** 30,
        2 ** 20,
        2 ** 41,
        4096,
      ])
      for (const text of ['', '0', '-1', '16X', 'G', '1e9', '9999999999999T', '１G']) {
        assert.throws(() => parseSize(text), isCode('ERR_VFIO_BAD_ARGUMENT'), text)
      }
    })

    it('reads zPCI ids', () => {
      assert.deepEqual(parseZpci('0x10'), { uid: 16 })
      assert.deepEqual(parseZpci('1,0xffffffff'), { uid: 1, fid: 0xffffffff })
      for (const text of ['', '0', '1,', '0x10000', '1,0x100000000', '-1', '1;2', '1,2,3']) {
        assert.throws(() => parseZpci(text), isCode('ERR_VFIO_BAD_ARGUMENT'), text)
      }
    })

    it('counts locked memory by container, or by user', () => {
      const gib = 2 ** 30
      assert.equal(lockedMemory({ memory: 16 * gib, user: 'u' }).bytes, 17 * gib)
      assert.equal(lockedMemory({ memory: 16 * gib, containers: 3, user: 'u' }).bytes, 51 * gib)
      const shared = lockedMemory({ memory: 16 * gib, containers: 3, iommufd: true, user: '1000' })
      assert.equal(shared.bytes, 17 * gib)
      assert.equal(shared.charged, 'user')
      assert.equal(shared.limits.line, `1000:1000 - memlock ${17 * 2 ** 20}`)
      assert.equal(shared.systemd, `LimitMEMLOCK=${17 * 2 ** 20}K`)
    })
  })
})
