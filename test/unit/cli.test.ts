import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Assessment, assess, assessGroup, diagnose, Host, survey } from 'vfio'
import { type DeviceDescription, makeHost, removeDirectories } from '../fixtures/host.js'
import { describeLargeHost } from '../fixtures/large-host.js'
import { skip } from '../fixtures/skip.js'
import { UsedHost } from '../fixtures/uses.js'
import { ROOT } from './support.js'

const MAIN = join(ROOT, 'dist/cli/main.js')

interface Ran {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

const ENVIRONMENT = {
  ...process.env,
  NO_COLOR: undefined,
  VFIO_DEBUG: undefined,
  COLUMNS: '80',
  LC_ALL: 'C.UTF-8',
}

function vfio(args: readonly string[], env: NodeJS.ProcessEnv = {}): Ran {
  const { status, stdout, stderr, error } = spawnSync(process.execPath, [MAIN, ...args], {
    encoding: 'utf8',
    env: { ...ENVIRONMENT, ...env },
    maxBuffer: 2 ** 26,
  })
  if (error) throw error
  return { status, stdout, stderr }
}

const GPU: DeviceDescription = {
  address: '0000:01:00.0',
  vendor: 0x10de,
  device: 0x2204,
  subsystem: [0x1458, 0x403b],
  class: 0x030000,
  group: 13,
  driver: 'nouveau',
  multifunction: true,
  bootVga: true,
  numaNode: 0,
  resetMethod: 'bus',
  capabilities: [{ kind: 'pm' }, { kind: 'pcie', linkSpeed: 4 }, { kind: 'msi' }],
  bars: [
    { index: 0, address: 0xf6000000, size: 0x1000000 },
    { index: 1, address: 0xe0000000, size: 0x10000000, is64: true, prefetchable: true },
    { index: 5, address: 0xe000, size: 0x80, io: true },
    { index: 'rom', address: 0xf7000000, size: 0x80000 },
  ],
}

const DEVICES: readonly DeviceDescription[] = [
  {
    address: '0000:00:01.0',
    headerType: 'bridge',
    secondaryBus: 1,
    subordinateBus: 1,
    driver: 'pcieport',
    group: 13,
    capabilities: [{ kind: 'pcie', type: 'root-port' }],
  },
  GPU,
  { ...GPU, address: '0000:01:00.1', device: 0x1aef, class: 0x040300, driver: 'snd_hda_intel', bars: [] },
  {
    address: '0000:00:02.0',
    headerType: 'bridge',
    secondaryBus: 2,
    driver: 'pcieport',
    group: 14,
    capabilities: [{ kind: 'pcie', type: 'root-port', slot: true, hotplug: true }],
  },
  {
    address: '0000:02:00.0',
    vendor: 0x144d,
    device: 0xa808,
    class: 0x010802,
    driver: 'vfio-pci',
    driverOverride: 'vfio-pci',
    group: 15,
    resetMethod: 'flr bus',
    capabilities: [
      { kind: 'pcie', flr: true },
      { kind: 'msix', vectors: 33 },
    ],
  },
  { address: '0000:00:1d.0', headerType: 'bridge', secondaryBus: 0, group: 16 },
  { address: '10000:e1:00.0', vendor: 0x144d, device: 0xa808, class: 0x010802, driver: 'nvme' },
]

const REGIONS = '0x00000000fee00000 0x00000000feefffff msi\n0xfffffffffff00000 0xffffffffffffffff reserved\n'
const HOST = {
  devices: DEVICES,
  groups: { 15: { reservedRegions: REGIONS } },
  slots: [{ name: '0-1', address: '0000:02:00', module: 'pciehp' }],
}

/** What a person reads: narrow enough, without colour, and with nothing that was not rendered. */
function assertReadable(text: string): void {
  for (const line of text.split('\n')) {
    assert.ok(line.length <= 80, `${line.length} columns: ${line}`)
    assert.equal(line.trimEnd(), line)
  }
  assert.doesNotMatch(text, /undefined|\[object|NaN/)
  assert.ok(!text.includes(ESCAPE), 'no colour')
  assert.match(text, /[^\n]\n$/)
}

const ESCAPE = String.fromCharCode(27)
const oneLine = /^vfio: [^\n]+\n$/

describe('the command line', function () {
  this.timeout(20_000)

  let sysfs = ''
  const look = () => new Host({ sysfs }).snapshot()
  /** A value as JSON carries it; a bigint is `0x…`. */
  const carried = (value: unknown): unknown =>
    JSON.parse(
      JSON.stringify(value, (_key, item) => (typeof item === 'bigint' ? `0x${item.toString(16)}` : item)),
    )
  const run = (...args: string[]) => vfio([...args, '--sysfs', sysfs])
  const json = (...args: string[]) => {
    const { stdout, stderr, status } = run(...args, '--json')
    assert.equal(stderr, '')
    assert.match(stdout, /^[^\n]+\n$/)
    const value: unknown = JSON.parse(stdout)
    return { value, status }
  }

  before(() => {
    sysfs = makeHost(HOST).sysfs
  })
  after(removeDirectories)

  describe('list', () => {
    it('prints what survey returns, as JSON', () => {
      const { value, status } = json('list')
      assert.equal(status, 0)
      assert.deepEqual(value, carried(survey(new Host({ sysfs }).snapshot({ brief: true }))))
      assert.deepEqual(Object.keys(value as object), ['host', 'groups', 'devices'])
    })

    it('has flat devices, each with its group', () => {
      const { devices, groups } = json('list').value as ReturnType<typeof survey>
      assert.deepEqual(
        devices.map(({ address, group }) => [address, group]),
        [
          ['0000:00:01.0', 13],
          ['0000:00:02.0', 14],
          ['0000:00:1d.0', 16],
          ['0000:01:00.0', 13],
          ['0000:01:00.1', 13],
          ['0000:02:00.0', 15],
          ['10000:e1:00.0', null],
        ],
      )
      assert.deepEqual(groups.find(({ group }) => group === 15)?.reservedRegions, [
        { start: '0xfee00000', end: '0xfeefffff', type: 'msi' },
        { start: '0xfffffffffff00000', end: '0xffffffffffffffff', type: 'reserved' },
      ])
    })

    it('is read by a person in aligned columns: the card by its name, what comes along, what resets it', () => {
      const { stdout, stderr, status } = run('list')
      assert.deepEqual([stderr, status], ['', 0])
      assertReadable(stdout)
      assert.match(stdout, /^GROUP ADDRESS +CLASS +DRIVER +VERDICT +WITH +USED +RESET +DEVICE$/m)
      const verdictAt = stdout.indexOf('VERDICT')
      for (const row of stdout.split('\n').filter((line) => /:[0-9a-f]{2}\.\d +[A-Z]/.test(line)))
        assert.match(row.slice(verdictAt), /^(ready|bindable|blocked) /)
      assert.match(stdout, /^ +13 01:00\.0 +VGA +nouveau +bindable +\+1 +hot\* +GeForce RTX 3090/m)
      assert.match(stdout, /^ +01:00\.1 +Audio +snd_hda\S+ +bindable +\+1 +hot\* /m)
      assert.match(stdout, /^ +15 02:00\.0 +NVMe +vfio-pci +ready +\? +function +NVMe SSD Contr/m)
      assert.match(
        stdout,
        /^ +- 10000:e1:00\.0 +NVMe +nvme +blocked .*\n +10000:e1:00\.0 is in no IOMMU group/m,
      )
      assert.doesNotMatch(stdout, /Corporation|Inc\./)
    })

    it('hides bridges and what belongs to the machine, and with --all gives them no verdict', () => {
      assert.doesNotMatch(run('list').stdout, /pcieport/)
      const { stdout } = run('list', '--all')
      assertReadable(stdout)
      assert.match(stdout, /^ +13 00:01\.0 +\S+ +pcieport +- +- +/m)
      const machine = makeHost({
        devices: [
          { address: '0000:00:1f.0', class: 0x060100, group: 4 },
          { address: '0000:00:1f.4', class: 0x0c0500, group: 4, driver: 'i801_smbus' },
        ],
      })
      assert.equal(
        vfio(['list', '--sysfs', machine.sysfs]).stdout,
        'Only bridges and parts of the machine are here: --all shows them.\n',
      )
    })

    it('chooses by words, class, driver and group, in JSON too', () => {
      const addresses = (...args: string[]) =>
        (json('list', ...args).value as ReturnType<typeof survey>).devices.map(({ address }) => address)
      assert.deepEqual(addresses('nvidia', 'audio'), ['0000:01:00.1'])
      assert.deepEqual(addresses('10de:2204'), ['0000:01:00.0'])
      for (const word of ['vga', '03', '0300', '030000'])
        assert.deepEqual(addresses('--class', word), ['0000:01:00.0'])
      assert.deepEqual(addresses('--driver', 'nvme'), ['10000:e1:00.0'])
      assert.deepEqual(addresses('--driver', 'none'), ['0000:00:1d.0'])
      assert.deepEqual(addresses('--group', '15'), ['0000:02:00.0'])
      assert.match(run('list', '--group', '13').stdout, /pcieport/)
      const nothing = run('list', 'matrox')
      assert.deepEqual([nothing.status, nothing.stdout], [1, 'No device fits.\n'])
      assert.equal(run('list', '--class', 'a b').status, 2)
      assert.equal(run('list', '--group', '99').status, 2)
      assert.equal(run('list', '--group', 'x').status, 2)
    })

    it('says of a disk that holds a volume that it is in use, and does not count it as free', () => {
      const disk = { class: 0x010802, driver: 'nvme', resetMethod: 'flr' }
      const used = new UsedHost({
        devices: [
          { ...disk, address: '0000:05:00.0', group: 1 },
          { ...disk, address: '0000:06:00.0', group: 2 },
          { address: '0000:07:00.0', class: 0x020000, group: 3 },
        ],
      })
      used.disk('nvme0n1', '0000:05:00.0', 259, 1)
      used.block({
        name: 'dm-0',
        number: '253:0',
        slaves: ['nvme0n1p1'],
        files: { 'dm/name': 'own\n', 'dm/uuid': '' },
      })
      const tree = ['--sysfs', used.tree.path('sys')]
      const { stdout } = vfio(['list', ...tree])
      assertReadable(stdout)
      assert.match(stdout, /^ +1 05:00\.0 +NVMe +nvme +in use +holder +function /m)
      assert.match(stdout, /^ +2 06:00\.0 +NVMe +nvme +bindable +function /m)
      assert.match(vfio(['list', '--free', ...tree]).stdout, /07:00\.0/)
      assert.doesNotMatch(vfio(['list', '--free', ...tree]).stdout, /05:00\.0/)
      const { devices } = JSON.parse(vfio(['list', '--free', '--json', ...tree]).stdout) as {
        devices: { uses: unknown[] }[]
      }
      assert.ok(devices.every(({ uses }) => Array.isArray(uses)))
    })

    it('is as wide as it is told, and in a pipe as long as it is', () => {
      for (const columns of ['40', '60', '80', '200']) {
        const { stdout } = vfio(['list', '--all', '--sysfs', sysfs], { COLUMNS: columns })
        for (const line of stdout.split('\n'))
          assert.ok(line.length <= Number(columns), `${columns}: ${line}`)
        if (columns !== '40') assert.match(stdout, /GeForce/)
      }
      for (const columns of [undefined, '0', '-1', 'wide', '1e3'])
        assert.match(
          vfio(['list', '--sysfs', sysfs], { COLUMNS: columns }).stdout,
          /NVMe SSD Controller SM981\/PM981\/PM983, Samsung Electronics$/m,
        )
    })

    it('keeps to ASCII in a locale that has no more', () => {
      const ascii = /^[\n -~]*$/
      for (const env of [
        { LC_ALL: 'C' },
        { LC_ALL: '', LC_CTYPE: 'POSIX' },
        { LC_ALL: undefined, LANG: undefined },
      ]) {
        assert.match(vfio(['list', '--sysfs', sysfs], { COLUMNS: '60', ...env }).stdout, ascii)
        assert.match(vfio(['check', 'group:13', '--sysfs', sysfs], env).stdout, ascii)
      }
      assert.doesNotMatch(
        vfio(['check', 'group:13', '--sysfs', sysfs], { LC_ALL: '', LANG: 'de_DE.utf8' }).stdout,
        ascii,
      )
    })

    it('says that there is no IOMMU, or no device', () => {
      const bare = makeHost({ iommu: 'none', devices: [{ address: '0000:00:03.0' }] })
      const { stdout, status } = vfio(['list', '--sysfs', bare.sysfs])
      assert.match(stdout, /No IOMMU.*vfio doctor/s)
      assertReadable(stdout)
      assert.equal(status, 0)
      const empty = vfio(['list', '--sysfs', makeHost({}).sysfs])
      assert.deepEqual([empty.status, empty.stdout], [0, 'There are no PCI devices here.\n'])
    })

    it('keeps to the line with long names and many members', () => {
      const driver = 'a_driver_with_a_name_that_is_longer_than_any_other_of_them'
      const devices = Array.from({ length: 32 }, (_, slot) => ({
        address: `abcdef01:00:${slot.toString(16).padStart(2, '0')}.0`,
        group: 123456,
        driver,
      }))
      const long = makeHost({ devices }).sysfs
      assertReadable(vfio(['list', '--sysfs', long]).stdout)
      assertReadable(vfio(['check', 'group:123456', '--sysfs', long]).stdout)
      assertReadable(vfio(['show', 'abcdef01:00:1f.0', '--sysfs', long]).stdout)
    })

    it('shows thousands of functions', () => {
      const { sysfs: large } = makeHost({ devices: describeLargeHost(1500) })
      const { stdout, status } = vfio(['list', '--json', '--sysfs', large])
      assert.equal(status, 0)
      assert.equal((JSON.parse(stdout) as { devices: unknown[] }).devices.length, 1500)
    })
  })

  describe('show', () => {
    it('prints device, group and assessment as JSON', () => {
      const { value, status } = json('show', '01:00.0')
      const seen = look()
      assert.equal(status, 0)
      assert.deepEqual(
        value,
        carried({
          device: seen.device('01:00.0'),
          group: seen.group(13),
          assessment: assess(seen, '01:00.0'),
        }),
      )
    })

    it('prints a device without a group', () => {
      const { value, status } = json('show', '10000:E1:00.0')
      assert.equal(status, 0)
      assert.equal((value as { group: unknown }).group, null)
    })

    it('tells a person all of it', () => {
      const { stdout, status, stderr } = run('show', '0000:01:00.0')
      assert.deepEqual([stderr, status], ['', 0])
      assertReadable(stdout)
      for (const part of [
        /address +0000:01:00\.0/,
        /ids +10de:2204/,
        /subsystem +1458:403b/,
        /class +0300/,
        /driver +nouveau/,
        /above +00:01\.0\n/,
        /link +16 GT\/s x4\n/,
        /IOMMU +intel-iommu\n/,
        /NUMA node +0/,
        /boot display +yes/,
        /BAR 0 +memory at 0xf6000000, 16 MiB/,
        /BAR 1 +memory at 0xe0000000, 256 MiB, 64-bit, prefetchable/,
        /BAR 5 +I\/O ports at 0xe000, 128 B/,
        /ROM +memory at 0xf7000000, 512 KiB/,
        /resets +bus/,
        /capabilities +PM, PCIe, MSI/,
        /group +13 .*: 00:01\.0/,
        /reserved +0xfee00000–0xfeefffff msi/,
        /bindable/,
      ]) {
        assert.match(stdout, part)
      }
      assert.match(run('show', '00:01.0').stdout, /above +a root bus\n +below +01:00\.0 01:00\.1\n/)
      const nvme = run('show', '02:00.0').stdout
      assertReadable(nvme)
      assert.match(nvme, /slot +0-1 \(pciehp\)/)
      assert.match(nvme, /override +vfio-pci/)
      assert.match(nvme, /capabilities +PCIe, MSI-X \(FLR\)/)
    })

    it('says when config space is cut', () => {
      const cut = makeHost({ devices: [{ ...GPU, readable: 64 }] }).sysfs
      assert.match(
        vfio(['show', '01:00.0', '--sysfs', cut]).stdout,
        /only 64 bytes are readable: run as root/,
      )
    })
  })

  describe('check', () => {
    it('prints the assessment as JSON, with status 0 when ready and 1 when not', () => {
      const seen = look()
      for (const [address, verdict, status] of [
        ['0000:02:00.0', 'ready', 0],
        ['0000:01:00.0', 'bindable', 1],
        ['0000:00:01.0', 'blocked', 1],
        ['10000:e1:00.0', 'blocked', 1],
      ] as const) {
        const checked = json('check', address)
        assert.equal(checked.status, status, address)
        assert.deepEqual(checked.value, carried(assess(seen, address)))
        assert.equal((checked.value as Assessment).verdict, verdict)
      }
    })

    it('has the shape that others build on', () => {
      const { viability, reset, ...rest } = json('check', '01:00.0').value as Assessment
      assert.deepEqual(Object.keys(rest).sort(), [
        ...['address', 'group', 'reason', 'resetOnceBound', 'toBind', 'uses', 'verdict'],
      ])
      assert.equal(rest.resetOnceBound, 'hot')
      assert.deepEqual(rest.toBind, ['0000:01:00.0', '0000:01:00.1'])
      const { members = [], ...viabilityRest } = viability ?? {}
      assert.deepEqual(viabilityRest, { group: 13, viable: false, rule: 'dma-ownership' })
      assert.deepEqual(
        members.map(({ reason, ...member }) => ({ ...member, reason: typeof reason })),
        [
          { address: '0000:00:01.0', driver: 'pcieport', blocks: false, reason: 'string' },
          { address: '0000:01:00.0', driver: 'nouveau', blocks: true, reason: 'string' },
          { address: '0000:01:00.1', driver: 'snd_hda_intel', blocks: true, reason: 'string' },
        ],
      )
      const { function: ofFunction, hot, scope } = reset
      assert.deepEqual(Object.keys(reset).sort(), ['function', 'hot', 'scope'])
      assert.deepEqual(
        { ...ofFunction, reason: typeof ofFunction.reason },
        { supported: false, methods: [], reason: 'string' },
      )
      assert.deepEqual(
        {
          ...hot,
          reason: typeof hot.reason,
          blockers: hot.blockers.map(({ reason, ...blocker }) => ({ ...blocker, reason: typeof reason })),
        },
        {
          supported: false,
          affected: [
            { address: '0000:01:00.0', group: 13 },
            { address: '0000:01:00.1', group: 13 },
          ],
          blockers: [{ address: '0000:01:00.1', reason: 'string' }],
          reason: 'string',
        },
      )
      assert.equal(scope, 'none')
    })

    it('of a group is an array of its assignable members', () => {
      const { value, status } = json('check', 'group:13')
      assert.equal(status, 1)
      assert.deepEqual(value, carried(assessGroup(look(), 13)))
      assert.equal((value as unknown[]).length, 2)
      const one = json('check', 'group:15')
      assert.deepEqual([one.status, (one.value as unknown[]).length], [0, 1])
    })

    it('of a group of bridges is an empty array, and not ready', () => {
      assert.deepEqual(json('check', 'group:14'), { value: [], status: 1 })
      assert.match(run('check', 'group:14').stdout, /group:14 has no member that could be assigned/)
    })

    it('tells a person verdict, rule, members and resets', () => {
      for (const [target, status] of [
        ['01:00.0', 1],
        ['group:13', 1],
        ['02:00.0', 0],
        ['10000:e1:00.0', 1],
      ] as const) {
        const ran = run('check', target)
        assert.deepEqual([ran.status, ran.stderr], [status, ''])
        assertReadable(ran.stdout)
      }
      const { stdout } = run('check', '01:00.0')
      assert.match(
        stdout,
        /^01:00\.0 VGA: GeForce RTX 3090, NVIDIA\n {2}group +13\n {2}driver +nouveau, then vfio-pci/,
      )
      assert.match(stdout, /variant\s+drivers\s+are\s+not\s+known:\s+no\s+modules\.alias/)
      assert.match(stdout, /^ {2}verdict +bindable \+1: 01:00\.0 can be given away/m)
      assert.match(
        stdout,
        /^ {2}with +01:00\.1 Audio: GA102 High Definition Audio Controller, NVIDIA\s+\(snd_hda_intel\)/m,
      )
      assert.match(stdout, /^ {2}viable +no, by the rule dma-ownership$/m)
      assert.match(stdout, /✗ 01:00\.1 is bound to snd_hda_intel/)
      assert.match(stdout, /✓ 00:01\.0 is bound to pcieport/)
      assert.match(stdout, /^ {2}used +! display: /m)
      assert.match(stdout, /^ {2}reset +hot\*: /m)
    })
  })

  describe('doctor', () => {
    it('prints the diagnosis as JSON; what another sysfs without its proc and dev does not tell is no failure', () => {
      const { value, status } = json('doctor')
      assert.deepEqual(value, carried(diagnose(look())))
      assert.equal(status, 0)
      const { ready, checks } = value as ReturnType<typeof diagnose>
      assert.equal(ready, true)
      for (const check of checks) assert.deepEqual(Object.keys(check), ['name', 'status', 'detail', 'cure'])
    })

    it('has the status of its verdict on this machine', () => {
      const { ready } = diagnose(new Host().snapshot())
      const { status, stdout } = vfio(['doctor'])
      assert.equal(status, ready ? 0 : 1)
      assert.match(stdout, ready ? /is ready for VFIO\.\n$/ : /is not ready for VFIO\.\n$/)
    })

    it('tells a person what to do', () => {
      const { stdout, stderr } = run('doctor')
      assert.equal(stderr, '')
      assertReadable(stdout)
      assert.match(stdout, /✓ iommu +intel-iommu \(dmar0\), intel-iommu \(dmar1\)/)
      assert.match(stdout, /✓ device node +not known/)
      const { sysfs } = makeHost({ iommu: 'none', devices: [{ address: '0000:07:00.0' }] })
      const without = vfio(['doctor', '--sysfs', sysfs])
      assert.equal(without.status, 1)
      assertReadable(without.stdout)
      assert.match(without.stdout, /✗ iommu +.*\n +→ /)
    })
  })

  describe('wrong usage', () => {
    const cases: readonly (readonly [args: readonly string[], says: RegExp])[] = [
      [['check', '59:00.8'], /"59:00\.8" is not a PCI address: expected .*59:00\.0/],
      [['show', ''], /"" is not a PCI address/],
      [['show', 'a\nb'], /"a\\nb" is not a PCI address/],
      [['check', `${'x'.repeat(5000)}`], /is not a PCI address/],
      [['check', '../../etc/passwd'], /is not a PCI address/],
      [['check', '0f:00.0'], /no PCI device 0000:0f:00\.0.*vfio list/],
      [['show', '0001:01:00.0'], /no PCI device 0001:01:00\.0/],
      [['check', 'group:999'], /no IOMMU group 999.*vfio list/],
      [['check', 'group:'], /"" is not a group number: expected group:N/],
      [['check', 'group:1e3'], /"1e3" is not a group number/],
      [['check', 'group:-1'], /"-1" is not a group number/],
      [['check', 'group:1\n2'], /is not a/],
      [['check', 'GROUP:13'], /is not a PCI address/],
      [['check'], /missing required argument/],
      [['show'], /missing required argument/],
      [['check', '01:00.0', '02:00.0'], /too many arguments/],
      [['doctor', 'extra'], /too many arguments/],
      [['list', '--nope'], /unknown option '--nope'/],
      [['list', '--json=yes'], /unknown option|does not take|--json/],
      [['list', '--no\npe'], /unknown option/],
      [['check', '01:00.0', '--ask-kernel'], /--ask-kernel.*--sysfs/],
    ]
    for (const [args, says] of cases) {
      const shown = args.map((arg) => (arg.length > 40 ? `${arg.slice(0, 20)}…` : arg)).join(' ')
      it(`${JSON.stringify(shown)} is one line on standard error, and status 2`, () => {
        const { status, stdout, stderr } = run(...args)
        assert.deepEqual([status, stdout], [2, ''])
        assert.match(stderr, oneLine)
        assert.match(stderr, says)
        assert.ok(stderr.length < 400, stderr)
      })
    }

    it('of the program itself is no other', () => {
      for (const [args, says] of [
        [['bogus'], /unknown command 'bogus'/],
        [['--nope'], /unknown option '--nope'/],
        [['list', '--sysfs'], /--sysfs/],
        [['list', '--sysfs', '/nowhere'], /\/nowhere.* is not a sysfs tree/],
        [['list', '--sysfs', '/no\nwhere'], /is not a sysfs tree/],
        [['list', '--sysfs', MAIN], /is not a sysfs tree/],
        [['list', '--sysfs', ''], /is not a sysfs tree/],
        [['reset'], /missing required argument/],
        [['reset', 'x'], /is not a PCI address/],
        [['help', 'bogus'], /bogus/],
      ] as const) {
        const { status, stdout, stderr } = vfio(args)
        assert.deepEqual([status, stdout], [2, ''], args.join(' '))
        assert.match(stderr, oneLine)
        assert.match(stderr, says)
      }
    })

    it('shows the stack with VFIO_DEBUG=1 only, in the names of the sources', () => {
      for (const command of ['check', 'show']) {
        const args = [command, '59:00.8', '--sysfs', sysfs]
        const { status, stderr } = vfio(args, { VFIO_DEBUG: '1' })
        assert.equal(status, 2)
        assert.match(stderr, /"59:00\.8" is not a PCI address.*\n +at /)
        assert.match(stderr, /^ +at expandName /m)
        assert.match(vfio(args, { VFIO_DEBUG: '' }).stderr, oneLine)
      }
    })
  })

  it('prints its version', () => {
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string }
    for (const flag of ['--version', '-V']) {
      assert.deepEqual(vfio([flag]), { status: 0, stdout: `${version}\n`, stderr: '' })
    }
  })

  it('helps, with each command', () => {
    const { status, stdout, stderr } = vfio(['--help'])
    assert.deepEqual([status, stderr], [0, ''])
    assert.deepEqual(vfio([]), { status, stdout, stderr })
    assert.deepEqual(vfio(['help']), { status, stdout, stderr })
    for (const command of ['list', 'show', 'check', 'reset', 'doctor']) {
      assert.match(stdout, new RegExp(`^ +${command} `, 'm'))
      const help = vfio([command, '--help'])
      assert.deepEqual([help.status, help.stderr], [0, ''])
      assert.match(help.stdout, new RegExp(`^Usage: vfio ${command}`))
      assertReadable(help.stdout)
    }
    assertReadable(stdout)
  })

  it('has colour on a terminal only, and never against NO_COLOR', function () {
    const onTerminal = (env: NodeJS.ProcessEnv) => {
      const command = [process.execPath, MAIN, 'list', '--sysfs', sysfs].map((word) => `'${word}'`).join(' ')
      const ran = spawnSync('script', ['-qec', command, '/dev/null'], {
        encoding: 'utf8',
        input: '',
        env: { ...ENVIRONMENT, TERM: 'xterm', ...env },
      })
      return ran.error ? null : ran.stdout
    }
    const coloured = onTerminal({})
    // `script` of util-linux gives a program a terminal.
    if (coloured === null) return skip(this, '`script` of util-linux is not installed')
    assert.ok(coloured.includes(`${ESCAPE}[32mready${ESCAPE}[0m`), coloured)
    assert.ok(!onTerminal({ NO_COLOR: '1' })?.includes(ESCAPE))
  })

  it('ends quietly when its reader goes away', () => {
    const { sysfs: large } = makeHost({ devices: describeLargeHost(400) })
    for (const command of ['list', 'list --json']) {
      const { stdout, stderr } = spawnSync(
        'bash',
        [
          '-c',
          `"$0" "$1" ${command} --sysfs "$2" | head -c 10 >/dev/null; echo "\${PIPESTATUS[0]}"`,
          process.execPath,
          MAIN,
          large,
        ],
        { encoding: 'utf8', env: ENVIRONMENT },
      )
      assert.deepEqual([stdout, stderr], ['0\n', ''])
    }
  })

  it('says in one line that its output could not be written', () => {
    const { status, stderr } = spawnSync(
      'bash',
      ['-c', '"$0" "$1" list --sysfs "$2" >/dev/full', process.execPath, MAIN, sysfs],
      {
        encoding: 'utf8',
        env: ENVIRONMENT,
      },
    )
    assert.equal(status, 1)
    assert.match(stderr, /^vfio: [^\n]*ENOSPC[^\n]*\n$/)
  })

  it('starts no program, writes nothing and opens no device to look and judge', function () {
    const trace = (args: readonly string[]) =>
      spawnSync(
        'strace',
        [
          '-f',
          '-qq',
          '-e',
          'signal=none',
          '-e',
          'trace=process,openat,open,ioctl,unlink,rename,mkdir',
          process.execPath,
          MAIN,
          ...args,
        ],
        { encoding: 'utf8', env: ENVIRONMENT, maxBuffer: 2 ** 26 },
      )
    const probe = spawnSync('strace', ['-qq', 'true'], { encoding: 'utf8' })
    if (probe.error) return skip(this, 'strace is not installed')
    if (probe.status !== 0) return skip(this, 'strace may not trace here')
    for (const args of [
      ['list', '--sysfs', sysfs],
      ['show', '01:00.0', '--sysfs', sysfs],
      ['check', '02:00.0', '--sysfs', sysfs],
      ['doctor'],
    ]) {
      const { stderr } = trace(args)
      const lines = stderr.split('\n')
      assert.equal(lines.filter((line) => /\bexecve\(/.test(line)).length, 1)
      const copies = lines.filter(
        (line) => /\b(v?fork|clone3?)\(/.test(line) && !line.includes('CLONE_THREAD'),
      )
      // One more of itself, for the override that the kernel may never tell.
      assert.equal(copies.length, args[0] === 'show' ? 1 : 0)
      assert.ok(lines.some((line) => /openat\(.*O_RDONLY/.test(line)))
      const own = lines.filter(
        (line) => line.includes(sysfs) || line.includes('/dev/vfio') || line.includes('"/sys/'),
      )
      assert.deepEqual(
        own.filter((line) => /O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|unlink|rename|mkdir/.test(line)),
        [],
      )
      assert.deepEqual(
        lines.filter((line) => /openat\(.*\/dev\/(vfio|iommu)/.test(line) && !line.includes('O_DIRECTORY')),
        [],
      )
      assert.ok(!stderr.includes('VFIO_'), 'no VFIO ioctl')
    }
  })
})
