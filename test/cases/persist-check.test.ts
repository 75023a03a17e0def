import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { checkPersistence, Host, planPersistence, readPersistence, writePersistence } from 'vfio'
import { type HostDescription, makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { Tree } from '../fixtures/tree.js'
import { ROOT } from '../unit/support.js'

const GPU = { address: '0000:01:00.0', vendor: 0x10de, device: 0x2504, class: 0x030000, group: 2 } as const
const TWIN = { ...GPU, address: '0000:02:00.0', group: 3 } as const

type Files = Readonly<Record<string, string>>

/** What became of a card that was persisted, beside its twin. */
async function boot(
  after: Partial<HostDescription> & { driver?: string | null; override?: string; twin?: string | null },
  files: Files = {},
) {
  const { driver = 'vfio-pci', override, twin = 'nouveau', ...host } = after
  const root = temporaryDirectory()
  mkdirSync(`${root}/etc`)
  const before = new Host(
    makeHost({
      devices: [
        { ...GPU, driver: 'nouveau' },
        { ...TWIN, driver: 'nouveau' },
      ],
    }),
  ).snapshot()
  await writePersistence(planPersistence(before, ['01:00.0']), { root })
  const tree = new Tree(root)
  for (const [path, content] of Object.entries(files)) tree.file(path, content)
  const trees = makeHost({
    devices: [
      { ...GPU, ...(driver && { driver }), ...(override && { driverOverride: override }) },
      { ...TWIN, ...(twin && { driver: twin }) },
    ],
    ...host,
  })
  return { root, trees, check: checkPersistence(new Host(trees).snapshot(), readPersistence({ root })) }
}

describe('persist --check', () => {
  after(removeDirectories)

  it('is content with what is as it was persisted', async () => {
    const { check } = await boot({ override: 'vfio-pci' })
    assert.deepEqual(
      [check.ok, check.others, check.problems, check.devices.map(({ reason }) => reason)],
      [true, [], [], ['0000:01:00.0 is bound to vfio-pci, as it was persisted']],
    )
  })

  const FAILED: readonly [what: string, after: Parameters<typeof boot>[0], says: RegExp][] = [
    ['the host driver came first', { driver: 'nouveau', override: 'vfio-pci' }, /had it before the files/],
    ['the initramfs is older than the files', { driver: 'nouveau' }, /not read at boot, or are newer/],
    ['vfio-pci refused it', { driver: null, override: 'vfio-pci' }, /kernel's log.*vfio check 0000:01:00\.0/],
    ['nobody took it', { driver: null }, /did not reach it/],
    ['it moved', { devices: [{ ...GPU, address: '0000:05:00.0' }] }, /not there any more.*moves addresses/],
  ]
  for (const [what, state, says] of FAILED) {
    it(`says so where ${what}`, async () => {
      const { check } = await boot(state)
      assert.equal(check.ok, false)
      assert.match(check.devices[0]?.reason ?? '', says)
    })
  }

  /** Lines of other tools, which are about the twin. */
  const LINES: readonly [from: string, files: Files, commandLine: string, source: string][] = [
    ['an older command line', {}, 'quiet vfio-pci.ids=10de:2504,1002:67df', 'kernel command line'],
    ['one with the other spelling', {}, 'vfio_pci.ids="10de:2504"', 'kernel command line'],
    ['pci-stub on it', {}, 'pci-stub.ids=10de:2504', 'kernel command line'],
    [
      'an older tutorial',
      { 'etc/modprobe.d/vfio.conf': '# old\noptions vfio-pci ids=10de:2504 disable_vga=1\n' },
      '',
      '/etc/modprobe.d/vfio.conf',
    ],
    [
      'a package',
      { 'usr/lib/modprobe.d/gpu.conf': 'options vfio_pci ids=10DE:2504:ffffffff:ffffffff:030000:ffff00\n' },
      '',
      '/usr/lib/modprobe.d/gpu.conf',
    ],
    [
      'driverctl',
      { 'etc/driverctl.d/pci-0000:02:00.0': 'vfio-pci\n' },
      '',
      '/etc/driverctl.d/pci-0000:02:00.0',
    ],
    [
      'driverctl before',
      { 'etc/driverctl.d/0000:02:00.0': 'vfio-pci\n' },
      '',
      '/etc/driverctl.d/0000:02:00.0',
    ],
    [
      'a rule of udev',
      {
        'etc/udev/rules.d/10-gpu.rules':
          'SUBSYSTEM=="pci", KERNEL=="0000:02:00.0", ATTR{driver_override}="vfio-pci"\n',
      },
      '',
      '/etc/udev/rules.d/10-gpu.rules',
    ],
    ['/etc/modules', { 'etc/modules': 'loop\nvfio_pci ids=10de:2504\n' }, '', '/etc/modules'],
  ]
  for (const [from, files, commandLine, source] of LINES) {
    it(`finds what else is bound: ${from}`, async () => {
      const { check } = await boot({ override: 'vfio-pci', twin: 'vfio-pci', commandLine }, files)
      const [line] = check.others
      assert.deepEqual([check.others.length, line?.source, line?.differs], [1, source, true])
      assert.ok(line?.devices.includes('0000:02:00.0'))
      assert.equal(check.ok, false)
    })
  }

  it('names lines that give no device away, and is content with them', async () => {
    const { check } = await boot(
      { commandLine: 'vfio-pci.ids=1002:67df' },
      {
        'etc/modprobe.d/a.conf':
          'softdep amdgpu pre: vfio-pci\nblacklist vfio_pci\ninstall vfio-pci /usr/local/bin/bind\noptions kvm ignore_msrs=1\noptions vfio-pci disable_vga=1\nblacklist nouveau\n',
        'etc/driverctl.d/vmbus-1': 'uio\n',
        'etc/modprobe.d/readme.txt': 'options vfio-pci ids=10de:2504\n',
      },
    )
    assert.deepEqual(
      check.others.map(({ text, differs }) => [text, differs]),
      [
        ['vfio-pci.ids=1002:67df', false],
        ['softdep amdgpu pre: vfio-pci', false],
        ['blacklist vfio_pci', false],
        ['install vfio-pci /usr/local/bin/bind', false],
      ],
    )
    assert.equal(check.ok, true)
  })

  it('tells of overrides that do not last, and of files that were changed by hand', async () => {
    const { check, root } = await boot({
      devices: [
        { ...GPU, driver: 'vfio-pci' },
        { ...TWIN, driverOverride: 'vfio-pci' },
      ],
    })
    assert.match(check.problems.join('\n'), /0000:02:00\.0 has the override vfio-pci, which no file asks for/)
    assert.equal(check.ok, true)
    new Tree(root).file(
      'etc/modprobe.d/vfio-persist.conf',
      '# begin "vfio persist" for 0000:01:00.0 sha256:0\n# end "vfio persist"\n',
    )
    const { problems } = readPersistence({ root })
    assert.match(problems.join('\n'), /changed by hand/)
  })

  it('tells what else our own ids fit, as it did when they were written', async () => {
    const root = temporaryDirectory()
    mkdirSync(`${root}/etc`)
    const before = new Host(makeHost({ devices: [GPU, TWIN] })).snapshot()
    await writePersistence(planPersistence(before, ['01:00.0'], { by: 'ids' }), { root })
    const bound = makeHost({
      devices: [
        { ...GPU, driver: 'vfio-pci' },
        { ...TWIN, driver: 'vfio-pci' },
      ],
    })
    const { ok, others } = checkPersistence(new Host(bound).snapshot(), readPersistence({ root }))
    assert.deepEqual(
      [ok, others.map(({ source, devices }) => [source, devices])],
      [true, [['/etc/modprobe.d/vfio-persist.conf', ['0000:01:00.0', '0000:02:00.0']]]],
    )
  })

  it('is not content with nothing', () => {
    const root = temporaryDirectory()
    const check = checkPersistence(
      new Host(makeHost({ devices: [GPU] })).snapshot(),
      readPersistence({ root }),
    )
    assert.deepEqual([check.ok, check.problems], [false, ['nothing is persisted here']])
  })

  it('knows which variant driver each device was given', async () => {
    const aliases = ['alias vfio_pci:v000010DEd00002504sv*sd*bc*sc*i* xe_vfio_pci']
    const before = makeHost({ aliases, devices: [GPU, TWIN] })
    const root = temporaryDirectory()
    mkdirSync(`${root}/etc`)
    await writePersistence(planPersistence(new Host(before).snapshot(), ['01:00.0']), { root })
    assert.deepEqual(readPersistence({ root }).devices, [{ address: '0000:01:00.0', driver: 'xe-vfio-pci' }])
  })

  it('on the command line, with status 0 or 1', async function () {
    this.timeout(60_000)
    const run = (root: string, sysfs: string, ...more: string[]) =>
      spawnSync(
        process.execPath,
        [join(ROOT, 'dist/cli/main.js'), 'persist', '--check', '--root', root, '--sysfs', sysfs, ...more],
        { encoding: 'utf8' },
      )
    const good = await boot({})
    const { status, stdout } = run(good.root, good.trees.sysfs)
    assert.deepEqual([status, stdout], [0, '✓ 0000:01:00.0 is bound to vfio-pci, as it was persisted\n'])
    const bad = await boot({ driver: 'nouveau' }, { 'etc/driverctl.d/0000:02:00.0': 'vfio-pci\n' })
    const failed = run(bad.root, bad.trees.sysfs)
    assert.equal(failed.status, 1)
    assert.match(
      failed.stdout,
      /✗ 0000:01:00\.0 is bound to nouveau[\s\S]*✗ \/etc\/driverctl\.d\/0000:02:00\.0 also has/,
    )
    assert.equal(JSON.parse(run(bad.root, bad.trees.sysfs, '--json').stdout).ok, false)
    assert.equal(run(bad.root, bad.trees.sysfs, '--write').status, 2)
  })

  /** A host that others have set up, by one file or word, as it came out of the boot. */
  const found = (files: Files, driver: string, commandLine = '') => {
    const root = temporaryDirectory()
    const tree = new Tree(root)
    tree.directory('etc')
    for (const [path, content] of Object.entries(files)) tree.file(path, content)
    const trees = makeHost({ commandLine, devices: [{ ...GPU, driver }] })
    return checkPersistence(new Host(trees).snapshot(), readPersistence({ root }))
  }

  // "vfio-pci.ids= is set and nouveau still has the card": vfio-pci is a module that comes later.
  it('says of a line that had no effect that it came too late', () => {
    const ids = 'vfio-pci.ids=10de:2504'
    assert.match(
      found({}, 'nouveau', ids).problems.join('\n'),
      /kernel command line gives 0000:01:00\.0 \(nouveau\) to vfio-pci.*initramfs.*softdep nouveau pre: vfio-pci/,
    )
    assert.doesNotMatch(found({}, 'vfio-pci', ids).problems.join('\n'), /came later/)
  })

  it('finds what people write into an initramfs, and aliases', () => {
    const script = 'echo vfio-pci > /sys/bus/pci/devices/0000:01:00.0/driver_override'
    for (const [path, text] of [
      ['etc/initramfs-tools/scripts/init-top/vfio.sh', `#!/bin/sh\n${script}\nmodprobe -i vfio-pci\n`],
      ['etc/initcpio/hooks/vfio', `run_hook() {\n  ${script}\n}\n`],
      ['etc/modprobe.d/old.conf', 'alias pci:v000010DEd00002504sv*sd*bc*sc*i* vfio-pci\n'],
    ] as const) {
      const [first] = found({ [path]: text }, 'vfio-pci').others
      assert.deepEqual([first?.source, first?.devices, first?.differs], [`/${path}`, ['0000:01:00.0'], true])
    }
    const commented = found({ 'etc/initramfs-tools/scripts/init-top/vfio.sh': `# ${script}\n` }, 'nouveau')
    assert.deepEqual(commented.others, [])
    assert.deepEqual(found({ 'etc/modprobe.d/net.conf': 'alias eth0 e1000e\n' }, 'nouveau').others, [])
  })
})
