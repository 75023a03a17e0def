import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Host } from 'vfio'
import { makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { ROOT } from './support.js'

/** Colour, a bell, a line of its own, C1 and DEL, text from right to left, a line separator. */
const EVIL = 'x\u001b[31my\u0007\r\nfaked\u007f\u009b2J\u202e\u2028z'
const VISIBLE = 'x\\u001b[31my\\u0007\\u000d\\u000afaked\\u007f'

function vfio(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(ROOT, 'dist/cli/main.js'), ...args], {
    encoding: 'utf8',
    env: { ...process.env, VFIO_DEBUG: undefined, COLUMNS: undefined },
  })
  return { status, stdout, stderr, all: stdout + stderr }
}

function assertHarmless(text: string): void {
  assert.doesNotMatch(text.replaceAll('\n', ''), /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u)
  assert.doesNotMatch(text, /^faked/m)
}

describe('a terminal', function () {
  this.timeout(300_000)
  let sysfs = ''
  before(() => {
    const trees = makeHost({
      devices: [
        {
          address: '0000:01:00.0',
          class: 0x020000,
          driver: EVIL,
          driverOverride: EVIL,
          group: 5,
          resetMethod: EVIL,
          files: {
            [`net/${EVIL}/operstate`]: 'up\n',
            [`net/${EVIL}/flags`]: '0x1003\n',
            // The first line end is where the modalias ends.
            uevent: `PCI_CLASS=20000\nPCI_ID=8086:10D3\nMODALIAS=${EVIL.replaceAll('\n', '')}\n`,
          },
        },
        { address: '0000:01:00.1', driver: 'vfio-pci', group: 5, vfioDevice: EVIL },
      ],
      groups: { 5: { type: EVIL, others: [{ name: `a${EVIL}`, driver: EVIL }] } },
      slots: [{ name: EVIL, address: '0000:01:00', module: EVIL }],
    })
    sysfs = trees.sysfs
    mkdirSync(join(sysfs, 'class/iommu', EVIL))
  })
  after(removeDirectories)

  /** What each command is tried with: on the tree where it takes one, else on what was typed or stands in a record. */
  const TRIED: Readonly<Record<string, readonly (readonly string[])[]>> = {
    list: [[], ['--json']],
    show: [['01:00.0'], ['01:00.0', '--json'], ['01:00.1']],
    check: [['01:00.0'], ['group:5'], ['group:5', '--json']],
    topology: [[], ['--all'], ['--json'], ['--svg'], ['--html'], ['--dot']],
    inventory: [
      [],
      ['--json'],
      ['--nfd'],
      ['--nfd', '--json'],
      ['--nfd', '--write', `/nowhere/${EVIL}`],
      ['--write', EVIL],
    ],
    doctor: [[], ['--json']],
    bind: [
      ['01:00.0', '--dry-run'],
      ['01:00.0', '--dry-run', '--json'],
      ['01:00.0', '--dry-run', '--driver', EVIL],
      ['01:00.0', '--dry-run', '--force', EVIL],
    ],
    persist: [
      ['01:00.0'],
      ['01:00.1', '--group'],
      ['01:00.0', '--json'],
      ['01:00.0', '--option', EVIL],
      ['--check', '--root', sysfs],
    ],
    export: [
      ...['qemu', 'libvirt', 'cloud-hypervisor', EVIL].map((format) => [format, '01:00.0', '01:00.1']),
      ['qemu', '01:00.1', '--machine', EVIL],
      ['qemu', '01:00.1', '--zpci', EVIL],
      ['libvirt', '01:00.1', '--guest-address', EVIL, '--json'],
      ['qemu', '01:00.1', '--memory', EVIL],
      ['kubevirt', '01:00.0', '--resource', EVIL],
      ['kubevirt', '01:00.0', '--resource', 'example.com/gpu'],
    ],
    cdi: [
      ['01:00.0'],
      ['01:00.1', '--json'],
      ['01:00.0', '--kind', EVIL],
      ['01:00.0', '--consumer', EVIL],
      [EVIL, '--remove', '--root', `/nowhere/${EVIL}`],
      ['--remove', '--kind', EVIL, '--root', `/nowhere/${EVIL}`],
    ],
    reset: [[EVIL], [EVIL, '--method', EVIL], ['ff:1f.7', '--method', EVIL]],
    rescan: [[EVIL], ['ff:1f.7', '--force', EVIL]],
    vfs: [
      [EVIL, '1'],
      ['ff:1f.7', EVIL],
    ],
    mdev: [['create', EVIL, EVIL], ['create', EVIL, 'ff:1f.7', '--uuid', EVIL], ['remove', EVIL], [EVIL]],
    grant: [
      [EVIL, '--user', EVIL],
      ['ff:1f.7', '--user', EVIL, '--memory', EVIL],
    ],
    revoke: [[EVIL], ['ff:1f.7', '--journal', `/nowhere/${EVIL}`]],
    run: [
      [EVIL, '--', 'true'],
      ['ff:1f.7', '--journal', `/nowhere/${EVIL}`, '--', EVIL],
      ['ff:1f.7', '--option', EVIL, '--', 'true'],
      ['ff:1f.7', '--json-events', EVIL, '--', 'true'],
      ['ff:1f.7'],
    ],
    release: [[EVIL], ['--all', '--journal', `/nowhere/${EVIL}`], ['ff:1f.7', '--timeout', EVIL]],
    recover: [['--journal', `/nowhere/${EVIL}`], [EVIL], ['ff:1f.7', '--kill', EVIL]],
    status: [['--journal', `/nowhere/${EVIL}`], [EVIL]],
    help: [[EVIL], ['list']],
  }
  const TAKES_A_TREE = [
    'list',
    'show',
    'check',
    'topology',
    'inventory',
    'doctor',
    'bind',
    'persist',
    'export',
    'cdi',
  ]

  it('is not steered by any command, whatever names say', () => {
    const commands = [...vfio('help').stdout.matchAll(/^ {2}([a-z]+) (?=[ [])/gm)].map(([, name]) => name)
    assert.deepEqual(Object.keys(TRIED).sort(), commands.sort())
    for (const [command, all] of Object.entries(TRIED)) {
      const tree = TAKES_A_TREE.includes(command) ? ['--sysfs', sysfs] : []
      for (const args of all) {
        const { all: said, status } = vfio(command, ...args, ...tree)
        assert.notEqual(said, '', command)
        assertHarmless(said)
        assert.doesNotMatch(said, /\n {4}at /)
        assert.ok(status !== null && status <= 3, `${command} ${status}`)
      }
    }
  })

  it('shows what a name has that cannot be seen', () => {
    assert.ok(vfio('list', '--sysfs', sysfs).stdout.includes(VISIBLE))
    const { stdout } = vfio('show', '01:00.0', '--sysfs', sysfs)
    assert.ok(stdout.includes(`driver       ${VISIBLE}`), stdout)
  })

  it('is not steered by what was typed', () => {
    for (const args of [
      ['show', EVIL],
      [EVIL],
      [`--${EVIL}`],
      ['help', EVIL],
      ['check', `group:${EVIL}`],
      ['list', '--sysfs', EVIL],
      ['bind', '01:00.0', '--dry-run', '--force', EVIL, '--sysfs', sysfs],
    ]) {
      const { status, stdout, stderr } = vfio(...args)
      assert.equal(stdout, '')
      assert.notEqual(status, 0)
      assert.match(stderr, /^vfio: [^\n]+\n$/)
      assertHarmless(stderr)
    }
  })

  it('is not steered by what records say', () => {
    const journal = temporaryDirectory()
    writeFileSync(join(journal, 'assignment-1.json'), EVIL, { mode: 0o600 })
    for (const command of ['status', 'recover', 'release']) {
      const { stderr } = vfio(command, '--journal', journal, ...(command === 'release' ? ['--all'] : []))
      assert.match(stderr, /is not a record of vfio/)
      assertHarmless(stderr)
    }
  })

  it('has nothing to do with JSON, which says what there is', () => {
    const { stdout } = vfio('show', '01:00.0', '--sysfs', sysfs, '--json')
    const { device } = JSON.parse(stdout) as { device: { driver: string } }
    assert.equal(device.driver, new Host({ sysfs }).snapshot().device('01:00.0').driver)
    assert.ok(device.driver.startsWith('x\u001b[31my\u0007\r\nfaked\u007f'))
  })

  it('is not steered by JSON either, which has its own way to write what is not seen', () => {
    for (const args of [
      ['list'],
      ['show', '01:00.0'],
      ['check', 'group:5'],
      ['bind', '01:00.0', '--dry-run'],
    ]) {
      const { stdout } = vfio(...args, '--sysfs', sysfs, '--json')
      assertHarmless(stdout)
      assert.ok(stdout.includes('\\u009b'), stdout)
    }
  })
})
