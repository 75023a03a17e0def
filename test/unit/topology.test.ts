import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { instance } from '@viz-js/viz'
import { describeTopology, exportTopology, Host, survey, type TopologyFormat, verdictWord } from 'vfio'
import { type ExampleHost, exampleHost } from '../../scripts/docs/host.js'
import { type DeviceDescription, makeHost, removeDirectories } from '../fixtures/host.js'
import { describeLargeHost } from '../fixtures/large-host.js'
import { vfio } from './in-process.js'
import { present, see } from './support.js'

const NIC = { class: 0x020000, resetMethod: 'flr', capabilities: [{ kind: 'pcie', flr: true }] } as const
const port = (address: string, group: number, secondaryBus: number): DeviceDescription => ({
  address,
  group,
  class: 0x060400,
  headerType: 'bridge',
  driver: 'pcieport',
  secondaryBus,
  capabilities: [{ kind: 'pcie', type: 'root-port' }],
})

/** Functions on a bus of conventional PCI, and on another behind a bridge on it. */
const nestedBuses = (): DeviceDescription[] => [
  { ...port('0000:00:1e.0', 1, 2), capabilities: [] },
  { address: '0000:02:00.0', class: 0x020000, group: 1 },
  { ...port('0000:02:01.0', 1, 3), capabilities: [] },
  { address: '0000:03:00.0', class: 0x010000, group: 1 },
  { address: '0000:03:01.0', class: 0x010000, group: 1 },
]

const PICTURES: readonly TopologyFormat[] = ['text', 'svg', 'html', 'dot']

/** What the terminal shows, without the names of columns and of the last column's. */
const text = (host: Parameters<typeof see>[0], options = {}) => exportTopology(see(host), options).text

describe('the topology of a host', function () {
  this.timeout(60_000)
  let example: ExampleHost
  before(() => {
    example = exampleHost()
  })
  after(() => {
    example.remove()
    removeDirectories()
  })
  const desktop = () => new Host(example.trees).snapshot()

  it('has every function, with the verdicts of the overview', () => {
    const seen = desktop()
    const { devices, groups } = describeTopology(seen)
    const all = survey(seen)
    assert.deepEqual(groups, all.groups)
    for (const [at, surveyed] of all.devices.entries()) {
      const { reason, ...rest } = surveyed
      const device = present(devices[at])
      // Each of its facts, whatever there will be.
      for (const [name, value] of Object.entries(rest))
        assert.deepEqual(device[name as keyof typeof device], value, `${device.address} ${name}`)
      assert(device.reason.startsWith(reason), device.reason)
    }
    assert.equal(devices.length, all.devices.length)
  })

  it('says where each hangs: on the bridge, the physical function, or the driver that makes its bus', () => {
    const { devices } = describeTopology(
      see({
        devices: [
          port('0000:00:01.0', 1, 1),
          { ...NIC, address: '0000:01:00.0', group: 2, totalVfs: 1, driver: 'igb' },
          { ...NIC, address: '0000:01:10.0', group: 3, physfn: '0000:01:00.0' },
          { address: '0000:00:0e.0', class: 0x010400, group: 4, driver: 'vmd' },
          { address: '10000:e0:00.0', class: 0x010802, group: 4, behind: '0000:00:0e.0' },
        ],
      }),
    )
    const below = Object.fromEntries(devices.map((device) => [device.address, [device.kind, device.below]]))
    assert.deepEqual(below, {
      '0000:00:01.0': ['root-port', null],
      '0000:00:0e.0': ['function', null],
      '0000:01:00.0': ['function', '0000:00:01.0'],
      '0000:01:10.0': ['virtual-function', '0000:01:00.0'],
      '10000:e0:00.0': ['function', '0000:00:0e.0'],
    })
  })

  it('tells at a glance what can go, what only together, what resets together, and what would be lost', () => {
    const { glance, resets } = describeTopology(desktop())
    const [card, audio] = ['0000:01:00.0', '0000:01:00.1']
    assert.deepEqual(glance.free, [
      '0000:00:02.0',
      card,
      audio,
      '0000:03:00.0',
      '0000:04:10.0',
      '0000:04:10.4',
    ])
    assert.deepEqual(glance.inUse, ['0000:00:1f.3', '0000:00:1f.6', '0000:02:00.0'])
    assert.deepEqual(glance.blocked, ['0000:04:00.0'])
    assert.deepEqual(glance.together, [
      { group: 1, members: [card, audio] },
      { group: 10, members: ['0000:00:1f.3', '0000:00:1f.6'] },
    ])
    assert.deepEqual(resets, [
      { through: '0000:00:01.0', members: [card, audio], dependents: [card, audio], possible: 'once bound' },
    ])
    assert.deepEqual(
      glance.lost.map(({ address, kind }) => [address, kind]),
      [
        ['0000:00:1f.6', 'network'],
        ['0000:02:00.0', 'mount'],
        ['0000:02:00.0', 'mount'],
      ],
    )
  })

  it('takes nothing for free of which the uses were not seen', () => {
    const described = { devices: [{ ...NIC, address: '0000:00:03.0', group: 1, driver: 'igb' }] }
    const looked = describeTopology(see(described)).glance
    assert.deepEqual([looked.free, looked.unsure], [['0000:00:03.0'], []])
    const brief = new Host(makeHost(described)).snapshot({ brief: true })
    const { glance } = describeTopology(brief)
    assert.deepEqual([glance.free, glance.unsure], [[], ['0000:00:03.0']])
    assert.match(exportTopology(brief).text, /^can go, if unused +1: 00:03\.0$/m)
  })

  it('is drawn for every host, also one without devices, an IOMMU or a tree that makes sense', () => {
    const bridges = see({ devices: [port('0000:00:01.0', 1, 1), port('0000:00:02.0', 2, 2)] })
    const [one, other] = bridges.devices
    const devices = [
      { ...present(one), parent: present(other).address },
      { ...present(other), parent: present(one).address },
    ]
    const circle = (bridges as unknown as { with(parts: object): typeof bridges }).with({ devices })
    for (const seen of [see({}), see({ iommu: 'none' }), bridges, circle])
      for (const format of PICTURES)
        assert(exportTopology(seen, { format, all: true }).text.length > 20, format)
    const drawn = exportTopology(circle, { all: true }).text
    for (const { address } of devices) assert(drawn.includes(`─ ${address.slice(5)} `), drawn)
    // What is to be said of the host stands in every picture, and not in the text alone.
    for (const format of PICTURES) {
      const of = (host: Parameters<typeof see>[0]) => exportTopology(see(host), { format }).text
      assert.match(of({}), /No PCI function was seen: .{1,8}vfio doctor/, format)
      assert.match(of({ iommu: 'none', devices: [{ address: '0000:00:03.0' }] }), /No IOMMU is on/, format)
    }
    assert.doesNotMatch(exportTopology(see({}), { format: 'html' }).text, /role="tree"/)
    const off = text({ iommu: 'none', devices: [{ address: '0000:00:03.0' }] })
    assert.match(off, /No IOMMU is on, so nothing here can be given away/)
  })

  it('is drawn of a look at a part', () => {
    const seen = new Host(example.trees).snapshot({ around: ['01:00.0'] })
    assert.match(exportTopology(seen).text, /01:00\.0 VGA/)
  })

  it('has the mediated devices below what carries them', () => {
    const uuid = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001'
    const drawn = text({
      devices: [{ address: '0000:00:02.0', class: 0x030000, driver: 'i915', group: 1 }],
      mdev: [
        {
          name: '0000:00:02.0',
          types: [{ id: 'i915-GVTg_V5_4', available: 1 }],
          devices: [{ uuid, type: 'i915-GVTg_V5_4', group: 9, driver: 'vfio_mdev' }],
        },
      ],
    })
    assert.match(drawn, new RegExp(`00:02\\.0 VGA.*\\n +└─ ${uuid} mdev `))
  })
})

describe('the drawing for a terminal', function () {
  this.timeout(60_000)
  let example: ExampleHost
  let large: ReturnType<typeof see>
  before(() => {
    example = exampleHost()
    large = see({ devices: describeLargeHost(500) })
  })
  after(() => {
    example.remove()
    removeDirectories()
  })
  const draw = (options = {}) => exportTopology(new Host(example.trees).snapshot(), options).text

  it('is a tree with brackets around groups and what resets together', () => {
    const lines = draw({ columns: 80 }).split('\n')
    assert.deepEqual(lines.slice(0, 6), [
      'DEVICE                    DRIVER   VERDICT  USED    GROUP RESET',
      'root bus 0000:00',
      '├─ 00:01.0 root port      pcieport -                 1 ┐',
      '│  ├─ 01:00.0 VGA         nouveau  bindable          1 ┤  hot*     ┐',
      '│  └─ 01:00.1 Audio       snd_hda… bindable          1 ┘  hot*     ┘',
      '├─ 00:02.0 VGA            i915     bindable          0    function',
    ])
    assert(lines.includes('│  └─ 02:00.0 NVMe        nvme     in use   mount   13    function'))
  })

  for (const columns of [40, 60, 80, 200]) {
    it(`fits into ${columns} columns, with and without UTF-8, and has what decides at each width`, () => {
      for (const unicode of [true, false]) {
        for (const seen of [new Host(example.trees).snapshot(), large]) {
          const drawn = exportTopology(seen, { columns, unicode, all: true }).text
          const words = drawn.split('\n').filter((line) => line.length > columns)
          // What is one word is not broken.
          assert.deepEqual(
            words.filter((line) => /\S\s+\S/.test(line.trim())),
            [],
          )
          if (!unicode) assert.doesNotMatch(drawn, /[^\n -~]/)
          assert.match(drawn, /in use|blocked/)
        }
        const own = draw({ columns, unicode })
        const disk = present(own.split('\n').find((line) => line.includes('02:00.0 NVMe')))
        if (columns >= 60) assert.match(disk, /in use +mount +13 +function/)
        else assert.match(disk, /in use +mount/)
      }
    })
  }

  it('says of each device what vfio list says of it', () => {
    const seen = new Host(example.trees).snapshot()
    const lines = draw().split('\n')
    for (const device of describeTopology(seen).devices) {
      if (device.infrastructure) continue
      const line = present(lines.find((one) => one.includes(`─ ${device.address.slice(5)} `)))
      assert.match(
        line,
        new RegExp(` ${verdictWord(device)} .* ${device.resetScope === 'function' ? 'function' : ''}`),
      )
    }
  })

  it('leaves out no bracket without a sign of it, where there is no room for all', () => {
    // Each bus of conventional PCI is on the one before it, so that the reset of each reaches all behind it.
    const deep = [1, 2, 3, 4, 5, 6].flatMap((bus): DeviceDescription[] => [
      { ...port(`0000:0${bus - 1}:1e.0`, 1, bus), capabilities: [] },
      { address: `0000:0${bus}:00.0`, class: 0x010000, group: 1 },
      { address: `0000:0${bus}:01.0`, class: 0x010000, group: 1 },
    ])
    const seen = see({ devices: deep })
    assert.equal(describeTopology(seen).resets.length, 6)
    for (const unicode of [true, false]) {
      const more = unicode ? '…' : '~'
      const lines = exportTopology(seen, { columns: 120, unicode }).text.split('\n')
      const at = (address: string) => present(lines.find((line) => line.includes(`${address} `)))
      // Of the six around the last, four are drawn; the first is in one alone, which is not.
      for (const address of ['06:01.0', '01:00.0']) assert(at(address).includes(more), lines.join('\n'))
      assert.doesNotMatch(at('00:1e.0'), new RegExp(more))
    }
    const svg = exportTopology(seen, { format: 'svg' }).text
    assert.equal(svg.match(/class="reset"/g)?.length, 6)
    assert.doesNotMatch(svg, />…</)
  })

  it('has colours where they are wanted, and is else without any', () => {
    assert(!draw().includes('\u001b'))
    const mark = (name: string) => (value: string) => `<${name}>${value}</${name}>`
    const paint = {
      ...{ good: mark('good'), doubtful: mark('doubtful'), bad: mark('bad') },
      ...{ faint: mark('faint'), strong: mark('strong') },
    }
    const drawn = draw({ paint })
    assert.match(drawn, /01:00\.0 VGA.*<doubtful>bindable<\/doubtful>/)
    assert.match(drawn, /02:00\.0 NVMe.*<bad>in use<\/bad> +<bad>mount<\/bad>/)
    assert.match(drawn, /<faint>.*00:01\.0 root port<\/faint>/)
    assert.match(drawn, /<good>can go +<\/good>/)
  })

  it('shows siblings that are alike as one with their count, also with all that is below them', () => {
    const functions = (drivers: readonly string[]): DeviceDescription[] => [
      port('0000:00:01.0', 1, 1),
      { ...NIC, address: '0000:01:00.0', group: 2, driver: 'igb', totalVfs: 7 },
      ...drivers.map((driver, at) => ({
        ...NIC,
        address: `0000:01:10.${at}`,
        group: 3 + at,
        physfn: '0000:01:00.0',
        driver,
      })),
    ]
    const vf = 'igbvf'
    assert.match(
      text({ devices: functions([vf, vf, vf]) }),
      /├─ 01:10\.0 .*\n.*├─ 01:10\.1 .*\n.*└─ 01:10\.2 /,
    )
    assert.match(
      text({ devices: functions([vf, vf, vf, vf, vf]) }),
      /└─ 5 × 01:10\.0 … 01:10\.4 Ethernet +igbvf +bindable +(\S+ +)?3–7/,
    )
    // One that differs is by itself.
    const odd = text({ devices: functions([vf, vf, 'vfio-pci', vf, vf]) })
    assert.match(odd, /4 × 01:10\.0 … 01:10\.4 /)
    assert.match(odd, /─ 01:10\.2 Ethernet +vfio-pci +ready/)
    const disks = [1, 2, 3, 4].flatMap((bus): DeviceDescription[] => [
      port(`0000:00:0${bus}.0`, 2 * bus, bus),
      { address: `0000:0${bus}:00.0`, class: 0x010802, group: 2 * bus + 1, driver: 'nvme' },
    ])
    assert.match(
      text({ devices: disks }),
      /└─ 4 × 00:01\.0 … 00:04\.0 root port .*\n +└─ 4 × 01:00\.0 … 04:00\.0 NVMe /,
    )
    // Whoever shares a group with one of them is no longer alike.
    const [first, second, ...others] = disks
    const shared = [present(first), { ...present(second), group: 2 }, ...others]
    assert.doesNotMatch(text({ devices: shared }), /4 × /)
  })

  it('keeps 500 functions to a screen or two, and loses none of them', () => {
    const drawn = exportTopology(large, { columns: 80, all: true }).text
    const tree = drawn.slice(0, drawn.indexOf('\n\n'))
    assert(tree.split('\n').length < 80, tree)
    const counted = tree
      .split('\n')
      .filter((line) => /[├└]─/.test(line))
      .reduce((sum, line) => sum + Number(/(\d+) × /.exec(line)?.[1] ?? 1), 0)
    assert.equal(counted, 500)
    assert.match(tree, /└─ 63 × 03:00\.1 Ethernet +ixgbevf +bindable +8–70 /)
    // Where there is room the last of them is named too.
    const wide = exportTopology(large, { columns: 200 }).text
    assert.match(wide, /└─ 63 × 03:00\.1 … 03:07\.7 Ethernet +ixgbevf +bindable +8–70 /)
  })

  it('leaves bridges and parts of the machine out that nothing hangs on, counts them, and shows them with all', () => {
    assert.match(draw(), /^1 bridge or part of the machine is not shown: --all shows them$/m)
    assert.doesNotMatch(draw(), /00:1f\.0/)
    assert.match(draw({ all: true }), /├─ 00:1f\.0 ISA .*\n├─ 00:1f\.3/)
  })
})

/** Colour, a bell, lines, C1, text from right to left; the ends of tags, scripts, comments, strings and records. */
const EVIL =
  'x\u001b[31m\u0007\n\u009b2J\u202e</script><script>alert(1)</script><img src=x onerror=alert(1)>"\'`-->]]>\\" }\\N|;\ufffe{&amp;&#x202e;&lt;'

describe('what devices and drivers call themselves', function () {
  this.timeout(60_000)
  after(removeDirectories)
  let seen: ReturnType<typeof see>
  before(() => {
    const file = EVIL.replaceAll('/', '_')
    seen = see({
      devices: [
        {
          address: '0000:01:00.0',
          vendor: 0x1234,
          device: 0x5678,
          class: 0x020000,
          driver: file,
          group: 5,
          files: { [`net/${file.replaceAll('\n', '')}/flags`]: '0x1003\n' },
        },
        { address: '0000:01:00.1', vendor: 0x1234, device: 0x5678, driver: 'vfio-pci', group: 5 },
      ],
      pciIds: `1234  ${EVIL.replaceAll('\n', ' ')}\n\t5678  ${EVIL.replaceAll('\n', ' ')}\n`,
    })
    assert.match(describeTopology(seen).devices[0]?.names.device ?? '', /<script>/)
    assert.match(describeTopology(seen).devices[0]?.driver ?? '', /<script>/)
  })
  const drawn = (format: TopologyFormat) => exportTopology(seen, { format }).text

  it('steers no terminal', () => {
    for (const format of PICTURES)
      assert.doesNotMatch(drawn(format).replaceAll('\n', ''), /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u, format)
    assert.match(drawn('text'), /\\u001b\[31m/)
  })

  it('is text in SVG and HTML, and neither an element nor an attribute', () => {
    const svg = drawn('svg')
    assert.doesNotMatch(svg, /<script|<img|onerror=alert\(1\)>"|\ufffe/)
    assert.match(svg, /u202e&lt;/)
    // Every tag that there is is one of ours.
    const tags = (markup: string) => new Set([...markup.matchAll(/<\/?([a-z]+)/gi)].map(([, name]) => name))
    assert.deepEqual(
      [...tags(svg)].filter((name) => !/^(svg|title|desc|style|rect|text|g|path)$/.test(name ?? '')),
      [],
    )
    const html = drawn('html')
    assert.equal(html.match(/<script/g)?.length, 2)
    assert.equal(html.match(/<\/script/g)?.length, 2)
    assert.doesNotMatch(html, /<img/)
    const [, data = ''] = /id="data">(.*?)<\/script>/s.exec(html) ?? []
    assert.match(JSON.stringify(JSON.parse(data)), /<script>alert/)
  })

  it('is text in dot, as Graphviz reads it', async () => {
    const viz = await instance()
    const { objects = [] } = viz.renderJSON(drawn('dot')) as { objects?: { name: string; label?: string }[] }
    assert.doesNotMatch(viz.renderString(drawn('dot'), { format: 'svg' }), /\u202e|&#x202e;|&#8238;/)
    const names = objects.map(({ name }) => name)
    assert(names.includes('0000:01:00.0') && names.includes('0000:01:00.1'), names.join())
    assert.equal(
      names.filter((name) => !/^(0000:01:00\.[01]|root bus 0000:01|cluster_5)$/.test(name)).length,
      0,
      names.join(),
    )
  })
})

describe('pictures of a host', function () {
  this.timeout(60_000)
  let example: ExampleHost
  before(() => {
    example = exampleHost()
  })
  after(() => {
    example.remove()
    removeDirectories()
  })
  const draw = (format: TopologyFormat, options = {}) =>
    exportTopology(new Host(example.trees).snapshot(), { format, ...options }).text

  it('as SVG have a title, all in words, a sentence for each device, and light and dark', () => {
    const svg = draw('svg')
    assert.match(
      svg,
      /^<svg [^>]*role="img" aria-labelledby="title desc">\n<title id="title">PCI topology, Linux 6/,
    )
    assert.match(svg, /<desc id="desc">15 functions, 11 IOMMU groups, 6 can go, 3 in use, 1 blocked/)
    assert.match(svg, /<title>02:00\.0 can be given away once.*would not survive/)
    assert.match(svg, /prefers-color-scheme:dark/)
    for (const theme of ['light', 'dark']) assert.doesNotMatch(draw('svg', { theme }), /prefers-color-scheme/)
    assert.notEqual(draw('svg', { theme: 'light' }), draw('svg', { theme: 'dark' }))
    assert.equal(svg.match(/class="group"/g)?.length, 2)
    assert.equal(svg.match(/class="reset"/g)?.length, 1)
  })

  /** A picture for Graphviz as that reads it: what each cluster has, and what is tied to each reset. */
  async function readDot(dot: string) {
    const viz = await instance()
    const { objects, edges } = viz.renderJSON(dot) as unknown as {
      readonly objects: readonly {
        readonly name: string
        readonly label: string
        readonly nodes?: number[]
      }[]
      readonly edges: readonly { readonly tail: number; readonly head: number; readonly style?: string }[]
    }
    const nameOf = (at: number) => present(objects[at]).name
    const clusters = objects.flatMap(({ label, nodes = [] }) =>
      nodes.length > 0 ? [[label, nodes.map(nameOf).sort()] as const] : [],
    )
    const resets = objects.flatMap(({ name, label }, at) =>
      name.startsWith('reset ')
        ? [[label, edges.filter(({ head }) => head === at).map(({ tail }) => nameOf(tail))] as const]
        : [],
    )
    return { clusters: Object.fromEntries(clusters), resets, names: objects.map(({ name }) => name) }
  }

  it('as dot have a cluster for what is one group, and a node for what resets together', async () => {
    const card = ['0000:01:00.0', '0000:01:00.1']
    const { clusters, resets } = await readDot(draw('dot'))
    assert.deepEqual(clusters['group 1'], ['0000:00:01.0', ...card])
    assert.deepEqual(resets, [['reset together\\nthrough 00:01.0\\nonce all of it is bound', card]])
    const viz = await instance()
    const large = exportTopology(see({ devices: describeLargeHost(500) }), { format: 'dot' }).text
    assert.equal(viz.render(large, { format: 'svg' }).status, 'success')
  })

  it('as dot tell resets that overlap, and show groups and resets of what is drawn as one', async () => {
    // Behind bridges of PCI the reset of the first bus reaches the second, and that of the second only itself.
    const nested = describeTopology(see({ devices: nestedBuses() }))
    assert.deepEqual(
      nested.resets.map(({ members }) => members.length),
      [4, 2],
    )
    const inner = ['0000:03:00.0', '0000:03:01.0']
    const { resets, clusters } = await readDot(text({ devices: nestedBuses() }, { format: 'dot' }))
    assert.deepEqual(
      resets.map(([, members]) => members),
      [['0000:02:00.0', '0000:02:01.0', ...inner], inner],
    )
    assert.equal(clusters['group 1']?.length, 5)
    // Four cards of two functions each are drawn as one, and are four groups and four resets all the same.
    const cards = [1, 2, 3, 4].flatMap((at): DeviceDescription[] => [
      port(`0000:00:0${at}.0`, 10 + at, at),
      ...[0, 1].map((own) => ({
        address: `0000:0${at}:00.${own}`,
        class: own === 0 ? 0x030000 : 0x040300,
        group: at,
        multifunction: true,
      })),
    ])
    const drawn = await readDot(text({ devices: cards }, { format: 'dot' }))
    assert.deepEqual(drawn.clusters, { 'groups 1–4, each as a whole': ['0000:01:00.0', '0000:01:00.1'] })
    assert.deepEqual(drawn.resets, [
      ['4 resets, each by itself\\nonce all of it is bound', ['0000:01:00.0', '0000:01:00.1']],
    ])
    // Seven virtual functions that are one group have a cluster, and such as are each their own have none.
    const functions = (group: (at: number) => number) => [
      port('0000:00:01.0', 1, 1),
      { ...NIC, address: '0000:01:00.0', group: 2, totalVfs: 7, driver: 'igb' },
      ...Array.from({ length: 7 }, (_, at) => ({
        ...{ ...NIC, address: `0000:01:10.${at}`, physfn: '0000:01:00.0' },
        group: group(at),
      })),
    ]
    const clustersOf = async (group: (at: number) => number) =>
      (await readDot(text({ devices: functions(group) }, { format: 'dot' }))).clusters
    assert.deepEqual(await clustersOf(() => 3), { 'group 3': ['0000:01:10.0'] })
    assert.deepEqual(await clustersOf((at) => 3 + at), {})
  })

  it('as a page tell what the reset of a device reaches, and whose reset reaches it', () => {
    const page = text({ devices: nestedBuses() }, { format: 'html' })
    const [, data = ''] = /id="data">(.*?)<\/script>/s.exec(page) ?? []
    const { facts } = JSON.parse(data)['0000:03:00.0'] as {
      readonly facts: readonly (readonly [name: string, sentences: string[], members: string[]])[]
    }
    const membersOf = (name: string) => facts.find((fact) => fact[0] === name)?.[2]
    assert.deepEqual(membersOf('Resets together with'), ['0000:03:01.0'])
    assert.deepEqual(membersOf('Is hit by the reset of'), ['0000:02:00.0'])
    assert.match(page, />hot\* × 2</)
    assert.match(page, />none × 4</)
  })

  it('as a page are one file that asks for nothing', () => {
    const html = draw('html')
    const hashOf = (element: string) => {
      const [, text = ''] = new RegExp(`<${element}>(.*?)</${element}>`, 's').exec(html) ?? []
      return `'sha256-${createHash('sha256').update(text).digest('base64')}'`
    }
    const [, policy = ''] = /http-equiv="Content-Security-Policy" content="(.*?)"/.exec(html) ?? []
    assert.equal(
      policy.split('; ').slice(0, 3).join('; '),
      `default-src 'none'; script-src ${hashOf('script')}; style-src ${hashOf('style')}`,
    )
    assert.doesNotMatch(html.replaceAll('http-equiv', ''), /https?:|url\(|@import|src=/)
  })
})

describe('vfio topology', function () {
  this.timeout(60_000)
  after(removeDirectories)

  it('draws for the terminal, and prints pictures and JSON as the library returns them', async () => {
    const { sysfs } = makeHost({ devices: describeLargeHost(24) })
    const seen = new Host({ sysfs }).snapshot()
    const run = async (...args: string[]) => (await vfio(['topology', '--sysfs', sysfs, ...args])).stdout
    for (const format of ['svg', 'html', 'dot'] as const)
      assert.equal(await run(`--${format}`), exportTopology(seen, { format }).text)
    assert.deepEqual(
      JSON.parse(await run('--json')),
      JSON.parse(
        JSON.stringify(describeTopology(seen), (_, value: unknown) =>
          typeof value === 'bigint' ? `0x${value.toString(16)}` : value,
        ),
      ),
    )
    assert.match(await run(), /^DEVICE /)
    assert.notEqual(await run('--all'), await run())
  })

  it('draws one picture at a time', async () => {
    for (const args of [
      ['--svg', '--html'],
      ['--dot', '--json'],
      ['--html', '--json'],
    ]) {
      const { status, stderr } = await vfio(['topology', ...args])
      assert.equal(status, 2)
      assert.match(stderr, /cannot be used with/)
    }
  })
})
