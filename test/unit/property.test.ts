import assert from 'node:assert/strict'
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import fc, { type Arbitrary } from 'fast-check'
import {
  assess,
  assessGroup,
  diagnose,
  Host,
  type PciDevice,
  type SurveyedDevice,
  type SurveyedGroup,
  survey,
} from 'vfio'
import { buildConfig, type Capability } from '../fixtures/config-space.js'
import {
  type DeviceDescription,
  makeHost,
  removeDirectories,
  temporaryDirectory,
  writeHost,
} from '../fixtures/host.js'
import { present, runs, SEED } from './support.js'

const HEADER = {
  vendor: 0x8086,
  device: 0x1533,
  subsystemVendor: 0x15d9,
  subsystemDevice: 0x1533,
  class: 0x020000,
  revision: 3,
  multifunction: false,
  bus: 1,
  secondaryBus: 2,
  subordinateBus: 2,
}

const slots = Array.from({ length: 32 }, (_, slot) => `0000:01:${slot.toString(16).padStart(2, '0')}.0`)

/** One tree whose functions change their files: 32 at a time, which costs less than a tree each. */
class Bench {
  readonly #trees = makeHost({
    devices: slots.map((address) => ({ address, group: 1, resetMethod: 'flr pm bus' })),
  })

  /** Config space, as it is read. */
  read(configs: readonly Uint8Array[]): readonly PciDevice[] {
    for (const [index, config] of configs.entries()) this.write(index, 'config', config)
    return this.look().slice(0, configs.length)
  }

  write(index: number, file: string, content: Uint8Array | string): void {
    writeFileSync(join(this.#trees.sysfs, 'bus/pci/devices', present(slots[index]), file), content)
  }

  look(): readonly PciDevice[] {
    const seen = new Host(this.#trees).snapshot()
    survey(seen)
    return seen.devices
  }

  /** The first function on a host with these files. */
  with(files: {
    pciIds?: Uint8Array | string
    aliases?: Uint8Array | string
    builtin?: Uint8Array | string
  }): PciDevice {
    const { pciIds, modules } = this.#trees
    if (files.pciIds !== undefined) writeFileSync(pciIds, files.pciIds)
    if (files.aliases !== undefined) writeFileSync(join(modules, 'modules.alias'), files.aliases)
    if (files.builtin !== undefined) writeFileSync(join(modules, 'modules.builtin.modinfo'), files.builtin)
    return present(this.look()[0])
  }
}

const byte = fc.nat(255)
const capability: Arbitrary<Capability> = fc.oneof(
  fc.record({
    kind: fc.constant('pm' as const),
    noSoftReset: fc.boolean(),
    state: fc.constantFrom(0, 1, 2, 3),
  }),
  fc.record({
    kind: fc.constant('msi' as const),
    vectors: fc.constantFrom(1, 2, 4, 8, 16, 32),
    enabled: fc.boolean(),
    address64: fc.boolean(),
    maskable: fc.boolean(),
  }),
  fc.record({
    kind: fc.constant('msix' as const),
    vectors: fc.integer({ min: 1, max: 2048 }),
    enabled: fc.boolean(),
    tableBar: fc.nat(5),
    tableOffset: fc.nat(0xffff).map((offset) => offset * 8),
    pbaBar: fc.nat(5),
    pbaOffset: fc.nat(0xffff).map((offset) => offset * 8),
  }),
  fc.record({ kind: fc.constant('af' as const), flr: fc.boolean(), transactionsPending: fc.boolean() }),
  fc.record({
    kind: fc.constant('standard' as const),
    id: fc.constantFrom(2, 3, 9, 0x0c, 0x12, 0x14),
    body: fc.uint8Array({ maxLength: 12 }),
  }),
)
const express: Arbitrary<Capability> = fc.record({
  kind: fc.constant('pcie' as const),
  type: fc.constantFrom('endpoint' as const, 'legacy-endpoint' as const, 'root-complex-endpoint' as const),
  flr: fc.boolean(),
  slot: fc.boolean(),
  hotplug: fc.boolean(),
  linkSpeed: fc.integer({ min: 1, max: 6 }),
  linkActive: fc.constantFrom(null, true, false),
})
const extended: Arbitrary<Capability> = fc.oneof(
  fc.record({ kind: fc.constant('acs' as const), supported: fc.nat(0x7f), enabled: fc.nat(0x7f) }),
  fc.record({
    kind: fc.constant('sriov' as const),
    totalVfs: fc.nat(0xffff),
    numVfs: fc.nat(0xffff),
    vfOffset: fc.nat(0xffff),
    vfStride: fc.nat(0xffff),
    vfDevice: fc.nat(0xffff),
  }),
  fc.record({ kind: fc.constant('cxl-port' as const), resetUnmasked: fc.boolean() }),
  fc.record({ kind: fc.constant('cxl-flex-bus' as const), status: fc.nat(0xffff) }),
  fc.record({
    kind: fc.constant('extended' as const),
    id: fc.constantFrom(1, 3, 0x0b, 0x0e, 0x0f, 0x19, 0x23),
    body: fc.uint8Array({ maxLength: 64 }),
  }),
)

const ACS = ['SV', 'TB', 'RR', 'CR', 'UF', 'EC', 'DT']
const named = (bits: number) => ACS.filter((_, bit) => bits & (1 << bit))

describe(`config space (seed ${SEED})`, function () {
  this.timeout(20_000)
  let bench: Bench
  before(() => {
    bench = new Bench()
  })
  after(removeDirectories)

  /** Bytes that look like capability lists more often than chance would have it. */
  const rubbish = fc
    .tuple(
      fc.uint8Array({ maxLength: 512 }),
      fc.constantFrom(0, 15, 16, 63, 64, 65, 255, 256, 257, 260, 4095, 4096, 5000),
      fc.array(fc.tuple(fc.nat(4095), byte), { maxLength: 64 }),
      fc.boolean(),
    )
    .map(([start, length, pokes, hasList]) => {
      const config = new Uint8Array(length)
      for (let at = 0; at < length; at++) config[at] = start[at % Math.max(1, start.length)] ?? 0
      for (const [at, value] of pokes) if (at < length) config[at] = value
      if (hasList && length > 64) {
        config[6] = (config[6] ?? 0) | 0x10
        config[0x34] = 0x40 + ((config[0x34] ?? 0) % 0xc0)
      }
      return config
    })

  it('of any bytes is read as far as it makes sense', () => {
    fc.assert(
      fc.property(fc.array(rubbish, { minLength: 16, maxLength: 32 }), (configs) => {
        for (const [index, { capabilities }] of bench.read(configs).entries()) {
          const length = Math.min(4096, present(configs[index]).length)
          assert.equal(capabilities.readable, length)
          const { standard, extended: more } = capabilities
          assert.ok(standard.length <= 48 && more.length <= 960)
          for (const { offset } of standard) assert.ok(offset >= 0x40 && offset < 256 && offset < length)
          for (const { offset } of more) assert.ok(offset >= 0x100 && offset < length)
          assert.equal(new Set(standard.map(({ offset }) => offset)).size, standard.length)
          assert.equal(new Set(more.map(({ offset }) => offset)).size, more.length)
          JSON.stringify(capabilities)
        }
      }),
      { numRuns: runs(60) },
    )
  })

  const lists = fc.record({
    standard: fc.uniqueArray(capability, { maxLength: 5, selector: ({ kind }) => kind }),
    express: fc.option(express),
    extended: fc.uniqueArray(extended, { maxLength: 4, selector: ({ kind }) => kind }),
    headerType: fc.constantFrom('normal' as const, 'bridge' as const, 'cardbus' as const),
  })

  it('built from capabilities is read back as these', () => {
    fc.assert(
      fc.property(fc.array(lists, { minLength: 16, maxLength: 32 }), (all) => {
        const described = all.map(({ standard, express: pcie, extended: more }): readonly Capability[] =>
          pcie ? [...standard, pcie, ...more] : standard,
        )
        const devices = bench.read(
          all.map(({ headerType }, index) =>
            buildConfig({ ...HEADER, headerType }, present(described[index])),
          ),
        )
        for (const [index, { capabilities: found, headerType }] of devices.entries()) {
          assert.equal(headerType, present(all[index]).headerType)
          const wanted = present(described[index])
          assert.equal(found.complete, true)
          assert.equal(found.standard.length + found.extended.length, wanted.length)
          const of = <K extends Capability['kind']>(kind: K) =>
            wanted.find((one): one is Extract<Capability, { kind: K }> => one.kind === kind)
          const [pm, msi, msix, af, pcie] = [of('pm'), of('msi'), of('msix'), of('af'), of('pcie')]
          assert.deepEqual(found.pm, pm ? { noSoftReset: pm.noSoftReset, state: `D${pm.state}` } : null)
          assert.deepEqual(found.af, af ? { flr: af.flr, transactionsPending: af.transactionsPending } : null)
          const without = <T extends { kind: string }>(one: T | undefined) => {
            if (!one) return null
            const { kind: _, ...rest } = one
            return rest
          }
          assert.deepEqual(found.msi, without(msi))
          assert.deepEqual(found.msix, without(msix))
          const { slot, hotplug, linkSpeed, ...rest } = without(pcie) ?? {}
          assert.deepEqual(
            found.pcie,
            pcie
              ? {
                  ...rest,
                  ...{ slot, hotplug: slot && hotplug },
                  // Its builder makes four lanes of every link.
                  ...{ linkSpeed, maxLinkSpeed: linkSpeed, linkWidth: 4, maxLinkWidth: 4 },
                }
              : null,
          )
          const [acs, sriov, cxl] = [of('acs'), of('sriov'), of('cxl-port')]
          assert.deepEqual(
            found.acs,
            acs ? { supported: named(acs.supported ?? 0), enabled: named(acs.enabled ?? 0) } : null,
          )
          assert.deepEqual(found.sriov, without(sriov))
          assert.equal(found.cxlResetMasked, cxl?.resetUnmasked === false)
          const flexBus = of('cxl-flex-bus')
          assert.equal(found.cxlLink, flexBus ? (flexBus.status & 0b101) !== 0 : null)
        }
      }),
      { numRuns: runs(60) },
    )
  })

  it('cut at any byte gives the beginning of what it has in full', () => {
    fc.assert(
      fc.property(lists, fc.array(fc.nat(4096), { minLength: 16, maxLength: 31 }), (described, cuts) => {
        const { standard, express: pcie, extended: more, headerType } = described
        const config = buildConfig({ ...HEADER, headerType }, pcie ? [...standard, pcie, ...more] : standard)
        const [whole, ...rest] = bench.read([config, ...cuts.map((length) => config.subarray(0, length))])
        const { capabilities: full } = present(whole)
        for (const { capabilities: part } of rest) {
          assert.deepEqual(part.standard, full.standard.slice(0, part.standard.length))
          assert.deepEqual(part.extended, full.extended.slice(0, part.extended.length))
          for (const key of ['pm', 'af', 'msi', 'msix', 'acs', 'sriov'] as const) {
            if (part[key] !== null) assert.deepEqual(part[key], full[key])
          }
          if (part.readable < 256 && full.standard.length > 0) assert.equal(part.complete, false)
        }
      }),
      { numRuns: runs(40) },
    )
  })

  it('whose list goes round in circles ends', () => {
    const config = buildConfig({ ...HEADER, headerType: 'normal' }, [
      { kind: 'pm' },
      { kind: 'pcie' },
      { kind: 'acs' },
      { kind: 'extended', id: 1 },
    ])
    config.writeUInt8(0x40, 0x49)
    config.writeUInt32LE((0x100 << 20) | 1, 0x108)
    const [found] = bench.read([config])
    assert.deepEqual(
      found?.capabilities.standard.map(({ name }) => name),
      ['PM', 'PCIe'],
    )
    assert.deepEqual(
      found?.capabilities.extended.map(({ name }) => name),
      ['ACS', 'AER'],
    )
  })
})

/** Text of lines that come from a grammar, with rubbish among them. */
const text = (...lines: Arbitrary<string>[]) =>
  fc
    .array(fc.oneof(...lines, fc.string({ unit: 'binary', maxLength: 20 })), { maxLength: 40 })
    .map((all) => all.join('\n'))

const hexDigits = (digits: number) =>
  fc.nat(16 ** digits - 1).map((value) => value.toString(16).padStart(digits, '0'))

describe(`pci.ids and modules.alias (seed ${SEED})`, function () {
  this.timeout(20_000)
  let bench: Bench
  before(() => {
    bench = new Bench()
  })
  after(removeDirectories)

  const isNames = ({ names }: PciDevice) =>
    Object.values(names).every((name) => name === null || (typeof name === 'string' && !name.includes('\n')))
  const isModules = ({ modules, variantDrivers }: PciDevice) =>
    [modules, variantDrivers].every(
      (list) => new Set(list).size === list.length && list.every((name) => name !== '' && !/\s/.test(name)),
    )

  it('of any bytes give names or none', () => {
    const line = text(
      fc.constantFrom(
        '1234  Vendor',
        'C ff  Class',
        '\t11e8  Device',
        '\t\t0000 0000  Subsystem',
        '',
        '#',
        '\t',
        '\t\t',
        'C ',
        '1234',
      ),
      hexDigits(4).map((id) => `${id}  Vendor`),
    )
    fc.assert(
      fc.property(fc.oneof(line, fc.uint8Array({ maxLength: 2000 })), (pciIds) => {
        assert.ok(isNames(bench.with({ pciIds })))
      }),
      { numRuns: runs(300) },
    )
  })

  it('name the device of the vendor that has it, wherever it stands', () => {
    const ids = fc.uniqueArray(hexDigits(4), { minLength: 2, maxLength: 20 })
    fc.assert(
      fc.property(ids, ids, fc.nat(1000), fc.nat(1000), (vendors, devices, v, d) => {
        const vendor = present(vendors[v % vendors.length])
        const device = present(devices[d % devices.length])
        const pciIds = vendors
          .map((id) => `${id}  V${id}\n${devices.map((one) => `\t${one}  D${id}${one}\n`).join('')}`)
          .join('')
        const [v8, d8] = [vendor, device].map((id) => `0000${id.toUpperCase()}`)
        bench.write(0, 'modalias', `pci:v${v8}d${d8}sv00000000sd00000000bc02sc00i00\n`)
        const { names } = bench.with({ pciIds })
        assert.deepEqual([names.vendor, names.device], [`V${vendor}`, `D${vendor}${device}`])
      }),
      { numRuns: runs(100) },
    )
  })

  it('of any bytes give modules or none', () => {
    const field = fc.oneof(
      fc.constant('*'),
      fc.constantFrom('00001234', '000011E8', '00000000', 'FF', '00'),
      hexDigits(8).map((digits) => digits.toUpperCase()),
    )
    const alias = fc
      .tuple(field, field, field, field, field, field, field)
      .map(([v, d, sv, sd, bc, sc, i]) => `pci:v${v}d${d}sv${sv}sd${sd}bc${bc}sc${sc}i${i}`)
    const line = text(
      alias.map((one) => `alias ${one} some_module`),
      alias.map((one) => `alias vfio_${one} some_vfio_pci`),
      fc.constantFrom(
        'alias',
        'alias pci:',
        'alias pci:v',
        'alias pci:v*',
        'alias vfio_pci:v*d*',
        'alias pci:vd x',
      ),
    )
    fc.assert(
      fc.property(fc.oneof(line, fc.uint8Array({ maxLength: 2000 })), line, (aliases, builtin) => {
        assert.ok(isModules(bench.with({ aliases, builtin: builtin.replaceAll('\n', '\0') })))
      }),
      { numRuns: runs(300) },
    )
  })

  it('of a megabyte in one line, or of one letter, end', () => {
    for (const content of ['v', '\t', '\n', '#', 'alias pci:v', 'C ', '\0', '1234  V\n\t']) {
      const long = content.repeat(2 ** 20 / content.length)
      const device = bench.with({ pciIds: long, aliases: long, builtin: long })
      assert.ok(isNames(device) && isModules(device), JSON.stringify(content))
    }
  })
})

/** What a brief look must not change. */
const decisive = ({ address, verdict, reason, toBind, resetScope }: SurveyedDevice) => [
  address,
  verdict,
  reason,
  toBind,
  resetScope,
]

describe(`a random tree (seed ${SEED})`, function () {
  this.timeout(30_000)
  afterEach(removeDirectories)

  const address = fc
    .tuple(fc.constantFrom('0000', '0001', '10000'), fc.nat(4), fc.nat(3), fc.nat(2))
    .map(([domain, bus, slot, fn]) => `${domain}:0${bus}:0${slot}.${fn}`)
  const someCapabilities = fc
    .tuple(
      fc.uniqueArray(capability, { maxLength: 3, selector: ({ kind }) => kind }),
      fc.option(fc.tuple(express, fc.uniqueArray(extended, { maxLength: 2, selector: ({ kind }) => kind }))),
    )
    .map(([standard, pcie]): Capability[] => [...standard, ...(pcie ? [pcie[0], ...pcie[1]] : [])])
  const device: Arbitrary<DeviceDescription> = fc.record(
    {
      address,
      vendor: fc.constantFrom(0x8086, 0x10de, 0x15b3, 0x1002, 0x168c, 0x1234),
      device: fc.constantFrom(0x1533, 0x2340, 0xcb84, 0x0030, 0x37c8),
      class: fc.constantFrom(0x020000, 0x030000, 0x060400, 0x010802),
      driver: fc.constantFrom('vfio-pci', 'pci-stub', 'nvme', 'pcieport', 'shpchp', 'mlx5_vfio_pci'),
      group: fc.nat(4),
      headerType: fc.constantFrom('normal' as const, 'bridge' as const, 'cardbus' as const),
      secondaryBus: fc.nat(4),
      multifunction: fc.boolean(),
      capabilities: someCapabilities,
      resetMethod: fc.constantFrom('flr', 'pm', 'bus', 'pm bus', '', 'nonsense bus', 'flr pm bus'),
      totalVfs: fc.nat(4),
      physfn: address,
      bootVga: fc.boolean(),
      readable: fc.constantFrom(0, 3, 64, 256),
      below: address,
    },
    { requiredKeys: ['address'] },
  )
  const kernel = fc.constantFrom(
    '5.10.0',
    '5.15.0',
    '5.17.0',
    '5.18.0',
    '6.1.0',
    '6.12.0',
    '7.3.0',
    '',
    'rubbish',
    null,
  )

  it('is looked at and judged without an error', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(device, { maxLength: 14, selector: (one) => one.address }),
        kernel,
        fc.constantFrom('intel' as const, 'amd' as const, 'none' as const),
        fc.constantFrom(true, false, null),
        fc.array(fc.record({ address, module: fc.constantFrom('pciehp', 'acpiphp') }), { maxLength: 3 }),
        (devices, release, iommu, interruptRemapping, covered) => {
          const known = new Set(devices.map((one) => one.address))
          const root = temporaryDirectory()
          const trees = writeHost(root, {
            kernel: release,
            iommu,
            interruptRemapping,
            // A path needs an end: only what stands earlier can be above.
            devices: devices.map(({ below, physfn, secondaryBus, ...one }) => ({
              ...one,
              ...(below !== undefined && known.has(below) && below < one.address ? { below } : {}),
              ...(physfn !== undefined && physfn < one.address ? { physfn } : {}),
              ...(secondaryBus !== undefined && Number(one.address.slice(-6, -5)) < secondaryBus
                ? { secondaryBus }
                : {}),
            })),
            slots: covered.map(({ address: at, module }, index) => ({
              name: String(index),
              address: at.slice(0, -2),
              module,
            })),
          })
          const seen = new Host(trees).snapshot()
          assert.deepEqual(new Set(seen.devices.map((one) => one.address)), known)
          const all = survey(seen)
          for (const judged of all.devices) {
            const { verdict, toBind, reason, viability, reset } = assess(seen, judged.address)
            assert.deepEqual(
              [verdict, toBind, reason, reset.scope],
              [judged.verdict, judged.toBind, judged.reason, judged.resetScope],
            )
            // What is ready is bound and viable; what is bindable has something to bind; what is blocked has not.
            if (verdict === 'ready') assert.equal(viability?.viable, true)
            assert.equal(toBind.length > 0, verdict === 'bindable')
            assert.equal(new Set(toBind).size, toBind.length)
            assert.equal(reset.scope === 'function', reset.function.supported)
            if (reset.hot.supported) assert.deepEqual(reset.hot.blockers, [])
          }
          for (const { group } of all.groups) assessGroup(seen, group)
          const { ready, checks } = diagnose(seen)
          assert.equal(
            ready,
            checks.every(({ status }) => status !== 'fail'),
          )
          rmSync(root, { recursive: true })
        },
      ),
      { numRuns: runs(120) },
    )
  })

  it('is judged in brief as in full', () => {
    const regular = device.map(
      ({ below: _, readable: __, secondaryBus, capabilities = [], resetMethod = '', physfn, ...one }) => ({
        ...one,
        capabilities,
        // The kernel lists no pm where it would do nothing.
        resetMethod: capabilities.some(({ kind }) => kind === 'pm')
          ? resetMethod.replace('pm', '').trim()
          : resetMethod,
        ...(one.headerType !== undefined && one.headerType !== 'normal'
          ? { secondaryBus: secondaryBus ?? 0 }
          : {}),
        ...(physfn !== undefined && physfn < one.address ? { physfn } : {}),
      }),
    )
    fc.assert(
      fc.property(
        fc.uniqueArray(regular, { maxLength: 14, selector: (one) => one.address }),
        kernel,
        (all, release) => {
          const root = temporaryDirectory()
          const devices = all.filter(
            ({ address: at, secondaryBus }) => !secondaryBus || Number(at.slice(-6, -5)) < secondaryBus,
          )
          // A bus has one bridge.
          const buses = devices.flatMap(({ address: at, secondaryBus }) =>
            secondaryBus ? [`${at.slice(0, 4)}${secondaryBus}`] : [],
          )
          fc.pre(new Set(buses).size === buses.length)
          const host = new Host(writeHost(root, { devices, kernel: release }))
          const [full, brief] = [survey(host.snapshot()), survey(host.snapshot({ brief: true }))]
          assert.deepEqual(brief.devices.map(decisive), full.devices.map(decisive))
          const judged = ({ group, viable, blockers }: SurveyedGroup) => [group, viable, blockers]
          assert.deepEqual(brief.groups.map(judged), full.groups.map(judged))
          rmSync(root, { recursive: true })
        },
      ),
      { numRuns: runs(120) },
    )
  })

  it('of names, links and bytes that mean nothing is looked at and judged without an error', () => {
    const name = fc.oneof(
      address,
      fc.constantFrom(
        'driver',
        'iommu_group',
        'config',
        'modalias',
        'vendor',
        'physfn',
        'resource',
        'x',
        'reset_method',
      ),
      fc.constantFrom('0', '1', 'devices', 'type', 'reserved_regions', 'slots', 'address', 'module', 'vfio'),
    )
    const place = fc.constantFrom(
      'bus/pci/devices',
      'bus/pci/devices/0000:00:00.0',
      'bus/pci/slots',
      'bus/pci/slots/1',
      'kernel/iommu_groups',
      'kernel/iommu_groups/1',
      'kernel/iommu_groups/1/devices',
      'class/iommu',
      'module/vfio/parameters',
      'devices/pci0000:00',
    )
    const target = fc.oneof(
      fc.constantFrom(
        '/dev/zero',
        '/dev/null',
        '.',
        '..',
        '../../..',
        '/',
        '/etc/passwd',
        '/proc/self',
        'nowhere',
        '0000:00:00.0',
      ),
      name,
      fc.string({ minLength: 1 }).filter((one) => !one.includes('\0')),
    )
    const entry = fc.record({
      path: fc.tuple(place, name).map((parts) => parts.join('/')),
      what: fc.oneof(
        fc.record({ link: target }),
        fc.record({ bytes: fc.uint8Array({ maxLength: 64 }) }),
        fc.record({
          text: fc.constantFrom(
            '0x8086\n',
            'PCI_ID=8086:1533\nPCI_CLASS=20000\n',
            '0000:00:00',
            '0x0 0x1 direct\n',
          ),
        }),
        fc.constant({ directory: true }),
      ),
    })
    fc.assert(
      fc.property(fc.array(entry, { maxLength: 60 }), (entries) => {
        const root = temporaryDirectory()
        const attempt = (make: () => void) => {
          try {
            make()
          } catch {
            // Something else is there already.
          }
        }
        // Links come last: what is written must not follow one out of the tree.
        for (const { path } of entries) mkdirSync(join(root, dirname(path)), { recursive: true })
        for (const { path, what } of entries) {
          if ('bytes' in what) attempt(() => writeFileSync(join(root, path), what.bytes, { flag: 'wx' }))
          else if ('text' in what) attempt(() => writeFileSync(join(root, path), what.text, { flag: 'wx' }))
          else if ('directory' in what) attempt(() => mkdirSync(join(root, path)))
        }
        for (const { path, what } of entries) {
          if ('link' in what) attempt(() => symlinkSync(what.link, join(root, path)))
        }
        const seen = new Host({
          sysfs: root,
          proc: root,
          dev: root,
          modules: root,
          pciIds: join(root, 'x'),
        }).snapshot()
        const { devices, groups } = survey(seen)
        for (const { address: at } of devices) assess(seen, at)
        for (const { group } of groups) assessGroup(seen, group)
        diagnose(seen)
        rmSync(root, { recursive: true, force: true })
      }),
      { numRuns: runs(150) },
    )
  })
})
