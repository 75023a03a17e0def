import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { textOf } from '../../lib/cli/export.js'
import { makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { skip } from '../fixtures/skip.js'
import { ROOT } from './support.js'

const VFIO = join(ROOT, 'dist/cli/main.js')

function vfio(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [VFIO, ...args], { encoding: 'utf8' })
}

/** The commands that hand devices on, as a person types them. */
describe('vfio export, persist, grant and vfs', () => {
  let sysfs: string
  before(() => {
    const ids = { vendor: 0x144d, device: 0xa808 }
    sysfs = makeHost({
      devices: [
        { address: '0000:00:03.0', ...ids, driver: 'nvme', group: 6 },
        { address: '0000:00:04.0', ...ids, driver: 'vfio-pci', group: 7 },
        // On the kernel's denylist: QuickAssist.
        { address: '0000:00:05.0', vendor: 0x8086, device: 0x37c8, group: 8 },
      ],
    }).sysfs
  })
  after(removeDirectories)

  it('prints nothing but arguments, and what is to be done apart from them', () => {
    const { status, stdout, stderr } = vfio('export', 'qemu', '00:03.0', '--machine', 'pc', '--sysfs', sysfs)
    assert.deepEqual([status, stdout], [0, '-device vfio-pci,host=0000:00:03.0,id=vfio0,bus=pci.0\n'])
    assert.match(stderr, /^vfio: .*vfio bind 0000:00:03\.0.*\n$/)
  })

  describe('as a part of a command', () => {
    const formats = [
      ['qemu', '--machine', 'q35'],
      ['cloud-hypervisor', '--guest-address', '0001:00:05.0'],
    ] as const
    for (const [format, ...options] of formats) {
      it(`are the words of ${format} where a shell puts them in place`, () => {
        const args = ['export', format, '00:03.0', '00:04.0', ...options, '--sysfs', sysfs]
        const wanted: string[] = JSON.parse(vfio(...args, '--json').stdout).arguments
        assert.ok(wanted.length > 2)
        const { stdout } = spawnSync(
          'sh',
          ['-c', 'printf "%s\\n" $("$@" 2>/dev/null)', 'sh', process.execPath, VFIO, ...args],
          { encoding: 'utf8' },
        )
        assert.deepEqual(stdout.trimEnd().split('\n'), wanted)
      })

      it(`are lines to be pasted on a terminal for ${format}`, function () {
        const args = [process.execPath, VFIO, 'export', format, '00:03.0', '00:04.0', ...options]
        const command = [...args, '--sysfs', sysfs].map((word) => `'${word}'`).join(' ')
        const { stdout, error } = spawnSync('script', ['-qec', `${command} 2>/dev/null`, '/dev/null'], {
          encoding: 'utf8',
          input: '',
        })
        if (error) return skip(this, '`script` of util-linux is not installed')
        assert.match(stdout, / \\\r\n/)
      })
    }

    it('refuse a word that the shell would split or change', () => {
      for (const word of ['a b', 'a*', 'a?', 'a[b', "a'b", 'a"b', 'a\\b', 'a\tb', 'a\nb', ''])
        assert.throws(
          () => textOf({ text: '', arguments: ['-device', word] }, false),
          ({ code, message }) => code === 'ERR_VFIO_BAD_ARGUMENT' && message.includes('--json'),
          word,
        )
      assert.equal(textOf({ text: 'pasted', arguments: ['a b'] }, true), 'pasted')
      assert.equal(textOf({ text: '<xml/>' }, false), '<xml/>')
    })
  })

  it('says why what no guest can have is none, and that it is not ready', () => {
    const { status, stdout, stderr } = vfio('export', 'qemu', '00:05.0', '--machine', 'pc', '--sysfs', sysfs)
    assert.deepEqual([status, stdout], [1, '-device vfio-pci,host=0000:00:05.0,id=vfio0,bus=pci.0\n'])
    assert.match(stderr, /^vfio: .*denylist/)
    const json = vfio('export', 'libvirt', '00:05.0', '--json', '--sysfs', sysfs)
    assert.equal(json.status, 1)
    const { notes, blockers } = JSON.parse(json.stdout)
    assert.match(blockers[0], /denylist/)
    assert.ok(notes.includes(blockers[0]))
  })

  it('prints what the library returns, as JSON', () => {
    const { stdout, stderr } = vfio(
      'export',
      'libvirt',
      '00:04.0',
      '--managed',
      'no',
      '--json',
      '--sysfs',
      sysfs,
    )
    const { format, managed, devices, text } = JSON.parse(stdout)
    assert.deepEqual([format, managed, devices[0].xml, stderr], ['libvirt', false, text, ''])
  })

  it('writes boot configuration, says so when there is nothing to do, and takes it away', () => {
    const root = temporaryDirectory()
    for (const path of ['etc/modprobe.d', 'etc/udev/rules.d'])
      mkdirSync(join(root, path), { recursive: true })
    const write = () => vfio('persist', '00:03.0', '--write', '--root', root, '--sysfs', sysfs)
    assert.match(write().stdout, /^wrote \/etc\/modprobe\.d\/vfio-persist\.conf\n/)
    assert.match(write().stdout, /nothing was changed/)
    assert.match(readFileSync(join(root, 'etc/modprobe.d/vfio-persist.conf'), 'utf8'), /0000:00:03\.0/)
    const { status, stdout } = vfio('persist', '--remove', '--root', root)
    assert.equal(status, 0)
    assert.match(stdout, /took the lines of vfio out of/)
    assert.deepEqual(readdirSync(join(root, 'etc/modprobe.d')), [])
  })

  it('prints the files by default, and writes none', () => {
    const root = temporaryDirectory()
    const { stdout, stderr } = vfio(
      'persist',
      '00:03.0',
      '--by',
      'ids',
      '--force',
      'other',
      '--root',
      root,
      '--sysfs',
      sysfs,
    )
    assert.match(stdout, /^# \/etc\/modprobe\.d\/vfio-persist\.conf\noptions vfio-pci ids=144d:a808\n/)
    assert.match(stderr, /0000:00:04\.0 has the same ids/)
    assert.deepEqual(readdirSync(root), [])
  })

  const WRONG: readonly (readonly string[])[] = [
    ['export'],
    ['export', 'xen', '00:04.0'],
    ['export', 'qemu'],
    ['export', 'qemu', '77:00.0'],
    ['export', 'qemu', 'gpu'],
    ['export', 'qemu', '00:04.0', '--managed', 'yes'],
    ['export', 'libvirt', '00:04.0', '--managed', 'maybe'],
    ['export', 'qemu', '00:04.0', '--zpci', 'x'],
    ['export', 'qemu', '00:04.0', '--machine', 'pdp11'],
    ['export', 'qemu', '00:04.0', '--guest-address', 'here'],
    ['export', 'cloud-hypervisor', '00:04.0', '--zpci', '1'],
    ['export', 'cloud-hypervisor', '00:04.0', '--machine', 'q35'],
    ['persist'],
    ['persist', '00:03.0', '--by', 'luck'],
    ['persist', '00:03.0', '--initramfs', 'grub'],
    ['persist', '--remove', '00:03.0'],
    ['persist', '--remove', '--write'],
    ['persist', '00:03.0', '--write'],
    ['grant', '00:04.0'],
    ['grant', '00:04.0', '--user', 'root', '--memory', 'much'],
    ['grant', '77:77.7', '--user', 'root'],
    ['revoke'],
    ['revoke', 'gpu'],
    ['vfs', '00:04.0'],
    ['vfs', '00:04.0', 'many'],
    ['vfs', '00:04.0', '-1'],
  ]
  for (const args of WRONG) {
    it(`is wrong usage, in one line: vfio ${args.join(' ')}`, () => {
      const looks = args[0] === 'export' || args[0] === 'persist'
      const { status, stdout, stderr } = vfio(...args, ...(looks ? ['--sysfs', sysfs] : []))
      assert.equal(status, 2, stderr)
      assert.equal(stdout, '')
      assert.match(stderr, /^vfio: [^\n]+\n$/)
    })
  }
})
