import assert from 'node:assert/strict'
import { mkdirSync, renameSync, unlinkSync } from 'node:fs'
import { assess, assign, Host, planAssignment, planPersistence } from 'vfio'
import { renderOne } from '../../lib/cli/check.js'
import { type HostDescription, makeHost, READY_MODULES, removeDirectories } from '../fixtures/host.js'
import { Tree } from '../fixtures/tree.js'
import { planOn, SINGLE, using } from '../unit/assign-hosts.js'
import { makeKernelHost, SimulatedKernel } from '../unit/assign-kernel.js'

const VF = '0000:03:00.1'

/** A virtual function for which the kernel has a variant driver in a module of this name. */
const hostWith = (module: string): HostDescription => ({
  kernel: '6.19.2',
  modules: { ...READY_MODULES, [module]: { state: 'loadable' } },
  aliases: [`alias vfio_pci:v00008086d0000E20Bsv*sd*bc03sc*i* ${module}`],
  devices: [
    {
      address: '0000:03:00.0',
      vendor: 0x8086,
      device: 0xe20b,
      class: 0x030000,
      driver: 'xe',
      group: 20,
      totalVfs: 12,
    },
    { address: VF, vendor: 0x8086, device: 0xe20b, class: 0x030000, physfn: '0000:03:00.0', group: 21 },
    { address: '0000:04:00.0', vendor: 0x8086, device: 0xe20b, class: 0x030000, driver: 'xe', group: 22 },
  ],
})

type Registered = readonly [module: string, driver: string] | null

function makeDirectory(path: string): void {
  unlinkSync(path)
  mkdirSync(path)
}

function see(module: string, registered: Registered = null) {
  const trees = makeHost(hostWith(module))
  if (registered) {
    const tree = new Tree(trees.sysfs)
    const [name, driver] = registered
    tree.file(`module/${name}/initstate`, 'live\n')
    tree.linkTo(`module/${name}/drivers/pci:${driver}`, `bus/pci/drivers/${driver}`)
    tree.directory(`bus/pci/drivers/${driver}`)
  }
  return new Host(trees).snapshot()
}

/** What `driver_override` is compared with is the driver's name (`pci_match_device`); an alias names the module. */
describe('driver names', () => {
  after(removeDirectories)

  const DRIVERS: readonly [what: string, module: string, registered: Registered, driver: string][] = [
    ['drivers/vfio/pci/xe/main.c: .name = "xe-vfio-pci"', 'xe_vfio_pci', null, 'xe-vfio-pci'],
    ['the same, once it is loaded', 'xe_vfio_pci', ['xe_vfio_pci', 'xe-vfio-pci'], 'xe-vfio-pci'],
    ['drivers/vfio/pci/mlx5/main.c: .name = KBUILD_MODNAME', 'mlx5_vfio_pci', null, 'mlx5_vfio_pci'],
    ['an alias as modules.builtin.modinfo has it', 'mlx5-vfio-pci', null, 'mlx5_vfio_pci'],
    ['drivers/vfio/pci/qat/main.c: .name = "qat_vfio_pci"', 'qat_vfio_pci', null, 'qat_vfio_pci'],
    [
      'one that is loaded and has another name altogether',
      'acme_vfio_pci',
      ['acme_vfio_pci', 'acme-migrate'],
      'acme-migrate',
    ],
    [
      'one that is built in and has no directory of its own',
      'b_vfio_pci',
      ['other', 'b-vfio-pci'],
      'b-vfio-pci',
    ],
    ['vfio-pci by the name of its module', 'vfio_pci', null, 'vfio-pci'],
  ]
  for (const [what, module, registered, driver] of DRIVERS) {
    it(`${driver}: ${what}`, () => {
      const seen = see(module, registered)
      const { steps, devices } = planAssignment(seen, [VF])
      assert.equal(steps.find(({ path }) => path.endsWith('/driver_override'))?.value, driver)
      assert.deepEqual(
        devices.map((device) => device.driver),
        [driver],
      )
      const [modprobe, udev] = planPersistence(seen, ['04:00.0']).files.map(({ content }) => content)
      assert.ok(udev?.includes(`ATTR{driver_override}="${driver}"`), udev)
      if (module !== 'vfio_pci') {
        // What is loaded is the module, by its own name.
        assert.ok(udev?.includes(`kmod load ${module}"`), udev)
        assert.match(
          modprobe ?? '',
          new RegExp(`^install ${module} .*echo ${driver} .*--ignore-install ${module} `),
        )
      }
    })
  }

  it('that are only derived from those of modules are told to be', () => {
    const warnings = (module: string, registered: Registered = null) =>
      planPersistence(see(module, registered), ['04:00.0']).warnings.join('\n')
    assert.match(warnings('acme_vfio_pci'), /module acme_vfio_pci is taken to have the same name/)
    assert.doesNotMatch(warnings('acme_vfio_pci', ['acme_vfio_pci', 'acme-vfio-pci']), /is taken to have/)
    assert.doesNotMatch(warnings('xe_vfio_pci'), /is taken to have/)
  })

  it('are taken from the kernel once the module is loaded, and given back by the same', async () => {
    const trees = makeKernelHost({
      ...SINGLE,
      aliases: ['alias vfio_pci:v0000144Dd0000A808sv*sd*bc*sc*i* acme_vfio_pci'],
    })
    /** Its driver has a name that nothing tells before it is there. */
    class Kernel extends SimulatedKernel {
      override async load(modprobe: string, module: string): Promise<void> {
        await super.load(modprobe, module)
        const drivers = `${trees.sysfs}/bus/pci/drivers`
        renameSync(`${drivers}/${module}`, `${drivers}/acme-vfio-pci`)
        new Tree(trees.sysfs).linkTo(
          `module/${module}/drivers/pci:acme-vfio-pci`,
          'bus/pci/drivers/acme-vfio-pci',
        )
      }
    }
    const kernel = new Kernel(trees)
    const plan = planOn(trees, ['0000:01:00.0'], { reset: 'none' })
    assert.equal(plan.devices[0]?.driver, 'acme_vfio_pci')
    const driver = () => new Host(trees).snapshot().device('01:00.0').driver
    const assignment = await assign(plan, using(trees, kernel))
    assert.deepEqual(
      [driver(), assignment.devices[0]?.driver, assignment.record?.devices[0]?.driver],
      ['acme-vfio-pci', 'acme-vfio-pci', 'acme-vfio-pci'],
    )
    await assignment.release()
    assert.equal(driver(), 'nvme')
  })

  /** libvirt, virpci.c: virPCIDeviceFindBestVFIOVariant() takes the alias with the fewest wildcards, and the first of equals. */
  describe('of several variants', () => {
    const choose = (...aliases: readonly string[]) => {
      const trees = makeHost({
        ...hostWith('a_vfio_pci'),
        aliases: aliases.map((alias) => `alias vfio_pci:${alias}`),
      })
      return new Host(trees).snapshot().device(VF).variantDrivers
    }
    const WIDE = 'v00008086d*sv*sd*bc03sc*i* wide'
    const EXACT = 'v00008086d0000E20Bsv*sd*bc03sc*i* exact'

    it('are the most specific first, wherever they stand', () => {
      assert.deepEqual(choose(WIDE, EXACT), ['exact', 'wide'])
      assert.deepEqual(choose(EXACT, WIDE), ['exact', 'wide'])
      assert.deepEqual(choose('v*d*sv*sd*bc03sc*i* any', WIDE, EXACT), ['exact', 'wide', 'any'])
    })

    it('are told by their best alias each', () => {
      assert.deepEqual(
        choose('v00008086d*sv*sd*bc*sc*i* wide', EXACT, 'v00008086d0000E20Bsv*sd*bc03sc00i00 wide'),
        ['wide', 'exact'],
      )
    })

    it('are in the order of the file where they are alike', () => {
      const [one, two] = [EXACT.replace('exact', 'one'), EXACT.replace('exact', 'two')]
      assert.deepEqual(choose(one, two), ['one', 'two'])
      assert.deepEqual(choose(two, one), ['two', 'one'])
    })

    it('are none where the subvendor, the subsystem or the class is another', () => {
      assert.deepEqual(choose('v00008086d0000E20Bsv00001234sd*bc*sc*i* other'), [])
      assert.deepEqual(choose('v00008086d0000E20Bsv*sd00001234bc*sc*i* other'), [])
      assert.deepEqual(choose('v00008086d0000E20Bsv*sd*bc02sc*i* other'), [])
      assert.deepEqual(choose('v*d*sv*sd*bc*sc*i* vfio-pci', 'v*d*sv*sd*bc*sc*i* vfio_pci'), [])
    })
  })

  it('are told with the verdict, as long as the device is not bound', () => {
    assert.equal(assess(see('xe_vfio_pci'), VF).variant, 'xe-vfio-pci')
    assert.ok(!Object.hasOwn(assess(see('vfio_pci'), VF), 'variant'))
    const { aliases: _, ...host } = hostWith('xe_vfio_pci')
    assert.ok(!Object.hasOwn(assess(new Host(makeHost(host)).snapshot(), VF), 'variant'))
    assert.match(
      renderOne(assess(see('xe_vfio_pci'), VF), see('xe_vfio_pci')),
      /^ {2}driver {3}-, then xe-vfio-pci, the variant driver that modules\.alias names for it$/m,
    )
  })

  it('are named in the plan, and where no list of them can be read that is said in place of "there is none"', () => {
    const why = (seen: ReturnType<typeof see>, driver = 'auto') => {
      const { steps, warnings } = planAssignment(seen, [VF], { driver, reset: 'none' })
      return [
        steps.find(({ path }) => path.endsWith('/driver_override'))?.why ?? '',
        warnings.join(),
      ] as const
    }
    const [named, warned] = why(see('xe_vfio_pci'))
    assert.match(named, /xe-vfio-pci .*: the variant driver that modules\.alias names for it$/)
    assert.equal(warned, '')
    for (const lose of [unlinkSync, makeDirectory]) {
      const trees = makeHost(hostWith('xe_vfio_pci'))
      lose(`${trees.modules}/modules.alias`)
      const seen = new Host(trees).snapshot()
      const [plain, warning] = why(seen)
      assert.match(plain, /^lets only vfio-pci take this device, and no other device with the same ids$/)
      assert.match(
        warning,
        /^whether a variant driver is made for 0000:03:00\.1 is not known, .*modules\.alias/,
      )
      assert.match(renderOne(assess(seen, VF), seen), /then vfio-pci \(variant drivers are not known/)
      // Who names one has decided.
      assert.equal(why(seen, 'vfio-pci')[1], '')
    }
  })

  it('may be given by the name of the module', () => {
    const { steps } = planAssignment(see('xe_vfio_pci'), [VF], { driver: 'xe_vfio_pci' })
    assert.equal(steps.find(({ path }) => path.endsWith('/driver_override'))?.value, 'xe-vfio-pci')
  })
})
