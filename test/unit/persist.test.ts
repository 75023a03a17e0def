import assert from 'node:assert/strict'
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, relative } from 'node:path'
import fc from 'fast-check'
import {
  builtinModules,
  detectInitramfs,
  type PersistOptions,
  planPersistence,
  removePersistence,
  type Snapshot,
  VfioError,
  writePersistence,
} from 'vfio'
import { type HostDescription, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { everythingIn } from '../fixtures/tree.js'
import { runs, SEED, see } from './support.js'

const NVME = { vendor: 0x144d, device: 0xa808, class: 0x010802, driver: 'nvme' } as const
const HOST: HostDescription = {
  aliases: [
    'alias pci:v*d*sv*sd*bc01sc08i02* nvme',
    'alias pci:v000010DEd00002204sv*sd*bc*sc*i* nouveau',
    'alias pci:v000010DEd00001AEFsv*sd*bc*sc*i* snd-hda-intel',
  ],
  devices: [
    { address: '0000:00:01.0', headerType: 'bridge', secondaryBus: 0x59 },
    { address: '0000:00:03.0', ...NVME, group: 6 },
    { address: '0000:00:04.0', ...NVME, group: 7 },
    { address: '0000:59:00.0', vendor: 0x10de, device: 0x2204, subsystem: [0x1458, 0x403b], group: 5 },
    { address: '0000:59:00.1', vendor: 0x10de, device: 0x1aef, driver: 'snd_hda_intel', group: 5 },
    { address: '0000:60:00.0', driver: 'igb', group: 8, totalVfs: 4 },
    { address: '0000:60:10.0', group: 9, physfn: '0000:60:00.0' },
  ],
}
const MODPROBE = '/etc/modprobe.d/vfio-persist.conf'
const UDEV = '/etc/udev/rules.d/05-vfio-persist.rules'
const MODULES = '/etc/initramfs-tools/modules'

const isCode = (code: string) => (error: unknown) => error instanceof VfioError && error.code === code

describe('persist', () => {
  let seen: Snapshot
  let root: string
  before(() => {
    seen = see(HOST)
  })
  beforeEach(() => {
    root = temporaryDirectory()
    for (const path of [
      '/etc/modprobe.d',
      '/etc/udev/rules.d',
      '/etc/initramfs-tools',
      '/etc/dracut.conf.d',
    ]) {
      mkdirSync(root + path, { recursive: true })
    }
    put(MODULES, '# List of modules\nloop\n')
  })
  after(removeDirectories)

  function put(path: string, text: string): void {
    mkdirSync(dirname(root + path), { recursive: true })
    writeFileSync(root + path, text)
  }
  const get = (path: string) => readFileSync(root + path, 'utf8')
  const content = (addresses: readonly string[], options: PersistOptions) =>
    Object.fromEntries(
      planPersistence(seen, addresses, options).files.map((file) => [file.path, file.content]),
    )

  describe('plans', () => {
    it('a device by its address, ahead of its driver', () => {
      const files = content(['00:03.0'], { initramfs: 'initramfs-tools' })
      assert.deepEqual(Object.keys(files), [MODPROBE, UDEV, MODULES])
      assert.match(
        files[MODPROBE] ?? '',
        /^install vfio-pci for a in 0000:00:03\.0; .*driver_override.*\nsoftdep nvme pre: vfio-pci\n$/,
      )
      assert.match(files[UDEV] ?? '', /KERNEL=="0000:00:03\.0", ATTR\{driver_override\}="vfio-pci"/)
      assert.doesNotMatch(Object.values(files).join(), /00:04\.0/)
      assert.equal(files[MODULES], 'vfio_pci\nvfio\nvfio_iommu_type1\n')
    })

    it('a device by its ids, and warns which others they grab', () => {
      const { files, warnings } = planPersistence(seen, ['00:03.0', '59:00.0', '59:00.1'], { by: 'ids' })
      assert.deepEqual(
        files.map(({ path }) => path),
        [MODPROBE],
      )
      assert.equal(
        files[0]?.content,
        'options vfio-pci ids=144d:a808,10de:2204:1458:403b,10de:1aef\nsoftdep nouveau pre: vfio-pci\nsoftdep nvme pre: vfio-pci\nsoftdep snd_hda_intel pre: vfio-pci\n',
      )
      assert.equal(warnings.length, 1)
      assert.match(warnings[0] ?? '', /^0000:00:04\.0 has the same ids \(144d:a808\).*away from nvme/)
    })

    it('the variant driver of those that have one, and vfio-pci for the others', () => {
      const aliases = [
        ...(HOST.aliases ?? []),
        'alias vfio_pci:v0000144Dd0000A808sv*sd*bc*sc*i* some_vfio_pci',
      ]
      const host = see({ ...HOST, aliases })
      const plan = planPersistence(host, ['00:03.0', '59:00.1'], { initramfs: 'initramfs-tools' })
      const [modprobe, udev, modules] = plan.files.map((file) => file.content)
      assert.match(
        modprobe ?? '',
        /^install some_vfio_pci for a in 0000:00:03\.0; .*echo some_vfio_pci .*\ninstall vfio-pci for a in 0000:59:00\.1; .*\nsoftdep nvme pre: some_vfio_pci\nsoftdep snd_hda_intel pre: vfio-pci\n$/,
      )
      assert.match(
        udev ?? '',
        /"0000:00:03\.0", ATTR\{driver_override\}="some_vfio_pci", .*kmod load some_vfio_pci/,
      )
      assert.equal(modules, 'vfio_pci\nvfio\nvfio_iommu_type1\nsome_vfio_pci\n')
      const { files, warnings } = planPersistence(host, ['00:03.0'], { by: 'ids' })
      assert.doesNotMatch(files[0]?.content ?? '', /some_vfio_pci/)
      assert.match(warnings.join('\n'), /0000:00:03\.0 has the variant driver some_vfio_pci/)
    })

    it('for dracut and mkinitcpio', () => {
      assert.equal(
        content(['00:03.0'], { initramfs: 'dracut' })['/etc/dracut.conf.d/vfio-persist.conf'],
        `force_drivers+=" vfio_pci vfio vfio_iommu_type1 "\ninstall_items+=" ${MODPROBE} ${UDEV} "\n`,
      )
      assert.equal(
        content(['00:03.0'], { initramfs: 'mkinitcpio', by: 'ids' })[
          '/etc/mkinitcpio.conf.d/vfio-persist.conf'
        ],
        `MODULES+=(vfio_pci vfio vfio_iommu_type1)\nFILES+=(${MODPROBE})\n`,
      )
    })

    it('and says where no file can help: what is built in comes first', () => {
      const builtin = new Set(['nvme'])
      const { files, warnings } = planPersistence(seen, ['00:03.0'], { builtin })
      assert.doesNotMatch(files[0]?.content ?? '', /softdep/)
      assert.match(warnings.join(), /nvme is built into the kernel/)
      const vfio = see({
        ...HOST,
        modules: {
          vfio: { state: 'builtin' },
          vfio_iommu_type1: { state: 'builtin' },
          vfio_pci: { state: 'builtin' },
        },
      })
      const plan = planPersistence(vfio, ['59:00.0', '59:00.1'], { by: 'ids', initramfs: 'initramfs-tools' })
      assert.deepEqual(plan.files, [])
      assert.match(
        plan.warnings.join(),
        /vfio-pci\.ids=10de:2204:1458:403b,10de:1aef to the kernel command line/,
      )
    })

    it('and names what shares a group', () => {
      assert.match(planPersistence(seen, ['59:00.0']).warnings.join(), /group 5 also has 0000:59:00\.1/)
    })

    const WRONG: readonly [string, string[], string][] = [
      ['nothing', [], 'ERR_VFIO_BAD_ARGUMENT'],
      ['a bridge', ['00:01.0'], 'ERR_VFIO_BAD_ARGUMENT'],
      ['a virtual function, which boot does not bring', ['60:10.0'], 'ERR_VFIO_BAD_ARGUMENT'],
      ['a device that is not there', ['77:00.0'], 'ERR_VFIO_NO_DEVICE'],
      ['no address', ['nvme; reboot'], 'ERR_VFIO_BAD_ADDRESS'],
    ]
    for (const [what, addresses, code] of WRONG) {
      it(`not for ${what}`, () => assert.throws(() => planPersistence(seen, addresses), isCode(code)))
    }
  })

  it('takes away the drafts that a crash left, and no other file', async () => {
    const plan = planPersistence(seen, ['00:03.0'], { initramfs: 'initramfs-tools', builtin: new Set() })
    const directory = join(root, dirname(MODPROBE))
    const drafts = ['.0123456789ab-vfio-persist.conf.new', '.0123456789ab-vfio-persist.conf.vfio-backup.new']
    const others = ['.0123456789ab-other.conf.new', '.x-vfio-persist.conf.new', 'vfio-persist.conf.new']
    const leave = () => {
      for (const name of [...drafts, ...others]) writeFileSync(join(directory, name), 'half')
    }
    for (const work of [() => writePersistence(plan, { root }), () => removePersistence({ root })]) {
      leave()
      await work()
      const names = readdirSync(directory)
      assert.deepEqual(
        drafts.filter((name) => names.includes(name)),
        [],
      )
      assert.deepEqual(
        others.filter((name) => !names.includes(name)),
        [],
      )
    }
  })

  describe('writes', () => {
    const plan = (addresses = ['00:03.0'], options: PersistOptions = { initramfs: 'initramfs-tools' }) =>
      planPersistence(seen, addresses, options)

    it('each file, with mode 0644, and keeps what others had', async () => {
      const before = picture(root)
      const report = await writePersistence(plan(), { root })
      assert.deepEqual(report.written, [MODPROBE, UDEV, MODULES])
      assert.deepEqual(report.backups, [`${MODULES}.vfio-backup`])
      assert.equal(report.rebuild, 'update-initramfs -u -k all')
      for (const path of report.written) assert.equal(statSync(root + path).mode & 0o7777, 0o644)
      assert.equal(get(`${MODULES}.vfio-backup`), '# List of modules\nloop\n')
      assert.match(
        get(MODULES),
        /^# List of modules\nloop\n# begin .*\nvfio_pci\nvfio\nvfio_iommu_type1\n# end .*\n$/,
      )
      const removal = await removePersistence({ root })
      assert.deepEqual(removal.removed.toSorted(), [MODPROBE, UDEV, MODULES].toSorted())
      assert.deepEqual(removal.dropped, ['0000:00:03.0'])
      assert.deepEqual(picture(root), before)
    })

    it('nothing the second time, and says so', async () => {
      await writePersistence(plan(), { root })
      const before = picture(root)
      const report = await writePersistence(plan(), { root })
      assert.deepEqual(
        { ...report },
        {
          written: [],
          removed: [],
          unchanged: [MODPROBE, UDEV, MODULES],
          backups: [],
          dropped: [],
          rebuild: null,
        },
      )
      assert.deepEqual(picture(root), before)
      await removePersistence({ root })
      assert.deepEqual((await removePersistence({ root })).removed, [])
    })

    it('another set in place of the first, whose files and devices go', async () => {
      await writePersistence(plan(), { root })
      const report = await writePersistence(plan(['00:04.0'], { by: 'ids' }), { root })
      assert.deepEqual(report.written, [MODPROBE])
      assert.deepEqual(report.removed, [UDEV, MODULES])
      assert.deepEqual(report.dropped, ['0000:00:03.0'])
      assert.equal(existsSync(root + UDEV), false)
      assert.equal(get(MODULES), '# List of modules\nloop\n')
      assert.equal(existsSync(`${root}${MODULES}.vfio-backup`), false)
    })

    for (const former of ['', '\n', 'loop', 'loop\n', '# a\n\nb\n']) {
      it(`a shared file that has ${JSON.stringify(former)}, and puts it back byte for byte`, async () => {
        put(MODULES, former)
        chmodSync(root + MODULES, 0o640)
        const before = picture(root)
        await writePersistence(plan(), { root })
        await removePersistence({ root })
        assert.deepEqual(picture(root), before)
      })
    }

    it('a shared file that was not there, and takes it away', async () => {
      const before = { ...picture(root) }
      const bare = temporaryDirectory()
      await writePersistence(plan(), { root: bare })
      assert.match(readFileSync(bare + MODULES, 'utf8'), /^# begin/)
      await removePersistence({ root: bare })
      assert.equal(existsSync(bare + MODULES), false)
      assert.deepEqual(picture(root), before)
    })

    it('and leaves what others added to a shared file meanwhile', async () => {
      await writePersistence(plan(), { root })
      put(MODULES, `first\n${get(MODULES)}last\n`)
      await writePersistence(plan(['00:03.0', '00:04.0']), { root })
      await removePersistence({ root })
      assert.equal(get(MODULES), 'first\n# List of modules\nloop\nlast\n')
    })

    it('beside a shared file of another tool that is a link, which nothing of ours goes to', async () => {
      symlinkSync('/nowhere', `${root}/etc/mkinitcpio.conf`)
      const { written } = await writePersistence(plan(), { root })
      assert.equal(written.length, 3)
      await removePersistence({ root })
    })

    const FOREIGN: readonly [string, () => void][] = [
      ['a file of somebody else', () => put(MODPROBE, 'options vfio-pci ids=1:2\n')],
      ['a directory', () => mkdirSync(root + MODPROBE)],
      ['a link to a file', () => symlinkSync(`${root}${MODULES}`, root + MODPROBE)],
      ['a link to nowhere', () => symlinkSync('/nowhere', root + MODPROBE)],
      ['a file that is far too large', () => put(MODPROBE, 'x'.repeat(2 ** 20 + 1))],
      ['a shared file with half of our marks', () => put(MODULES, '# begin "vfio persist" for x\n')],
    ]
    for (const [what, prepare] of FOREIGN) {
      it(`nothing at all beside ${what}`, async () => {
        prepare()
        const before = picture(root)
        await assert.rejects(writePersistence(plan(), { root }), isCode('ERR_VFIO_BAD_FILE'))
        assert.deepEqual(picture(root), before)
      })
    }

    it('nothing through a directory that is a link', async () => {
      const outside = temporaryDirectory()
      const linked = temporaryDirectory()
      mkdirSync(`${linked}/etc/udev`, { recursive: true })
      symlinkSync(outside, `${linked}/etc/udev/rules.d`)
      await assert.rejects(writePersistence(plan(), { root: linked }), isCode('ERR_VFIO_BAD_FILE'))
      assert.deepEqual(readdirSync(outside), [])
      assert.equal(existsSync(linked + MODPROBE), false)
    })

    it('nowhere where there is no such tree', async () => {
      const nowhere = join(root, 'nowhere')
      await assert.rejects(
        writePersistence(plan(), { root: nowhere }),
        (error) => error instanceof VfioError && error.code === 'ENOENT',
      )
      assert.deepEqual((await removePersistence({ root: nowhere })).removed, [])
    })

    it('nothing over what a person changed, nor takes it away', async () => {
      await writePersistence(plan(), { root })
      put(MODPROBE, get(MODPROBE).replace('softdep', '#softdep'))
      const before = picture(root)
      await assert.rejects(writePersistence(plan(['00:04.0']), { root }), isCode('ERR_VFIO_BAD_FILE'))
      await assert.rejects(removePersistence({ root }), isCode('ERR_VFIO_BAD_FILE'))
      assert.deepEqual(picture(root), before)
    })

    it(`never loses a shared file, whatever is in it (seed ${SEED})`, async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(
            fc.oneof(
              fc.string(),
              fc.constantFrom('# begin "vfio persist"', '# end "vfio persist"', '\r', '\u0000'),
            ),
            { maxLength: 6 },
          ),
          async (lines) => {
            writeFileSync(root + MODULES, lines.join('\n'), 'latin1')
            const before = picture(root)
            try {
              await writePersistence(plan(), { root })
              await removePersistence({ root })
            } catch (error) {
              if (!isCode('ERR_VFIO_BAD_FILE')(error)) throw error
            }
            assert.deepEqual(picture(root), before)
          },
        ),
        { numRuns: runs(60) },
      )
    })
  })

  it('finds what builds the initramfs', () => {
    assert.equal(detectInitramfs({ root }), 'none')
    put('/usr/bin/dracut', '')
    assert.equal(detectInitramfs({ root }), 'dracut')
    put('/usr/sbin/mkinitramfs', '')
    assert.equal(detectInitramfs({ root }), 'initramfs-tools')
  })

  it('reads what is built in', () => {
    put('/modules.builtin', 'kernel/drivers/nvme/host/nvme-core.ko\nkernel/drivers/usb/host/xhci-pci.ko\n')
    assert.deepEqual([...builtinModules(root)], ['nvme_core', 'xhci_pci'])
    assert.deepEqual([...builtinModules(null)], [])
  })
})

/** Every file below a directory: kind, mode and content. */
function picture(root: string): Record<string, string> {
  const names = everythingIn(root)
    .map(({ path }) => relative(root, path))
    .sort()
  return Object.fromEntries(
    names.map((name) => {
      const path = join(root, name)
      const facts = lstatSync(path)
      const what = facts.isSymbolicLink()
        ? `-> ${readlinkSync(path)}`
        : facts.isDirectory()
          ? 'directory'
          : readFileSync(path, 'latin1')
      return [name, `${facts.mode.toString(8)} ${what}`]
    }),
  )
}
