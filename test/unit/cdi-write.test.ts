import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { exportCdi, removeCdi, type Snapshot, VfioError, writeCdi } from 'vfio'
import { makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { ROOT, see } from './support.js'

const DEVICES = [
  { address: '0000:00:03.0', driver: 'nvme', group: 6 },
  { address: '0000:00:04.0', driver: 'vfio-pci', group: 7 },
  { address: '0000:00:05.0', driver: 'vfio-pci', group: 8 },
]

const refused =
  (words: RegExp, code = 'ERR_VFIO_BAD_FILE') =>
  (error: unknown) =>
    error instanceof VfioError && error.code === code && words.test(error.message)

const OTHERS = '{ "cdiVersion": "0.5.0", "kind": "vfio/pci", "devices": [{ "name": "all" }] }'

describe('the file of a kind', () => {
  let seen: Snapshot
  let root: string
  before(() => {
    const nodes = Object.fromEntries(['vfio/vfio', 'vfio/7', 'vfio/8'].map((name) => [name, 0o600]))
    seen = see({ devices: DEVICES, nodes })
  })
  beforeEach(() => {
    root = temporaryDirectory()
  })
  after(removeDirectories)

  const FILE = '/var/run/cdi/vfio-vfio_pci.json'
  const made = (addresses: readonly string[], kind?: string) => exportCdi(seen, addresses, { kind })
  const write = (addresses: readonly string[], kind?: string) => writeCdi(made(addresses, kind), { root })
  const put = (path: string, text: string) => {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
  }
  const textOf = (path: string) => readFileSync(join(root, path), 'utf8')

  it('is written whole, for all to read, and nothing else with it', async () => {
    const before = process.umask(0o077)
    try {
      assert.deepEqual(await write(['00:04.0']), {
        path: FILE,
        change: 'written',
        devices: ['vfio/pci=0000:00:04.0'],
        dropped: [],
      })
    } finally {
      process.umask(before)
    }
    assert.equal(textOf(FILE), made(['00:04.0']).text)
    assert.equal(statSync(join(root, FILE)).mode & 0o7777, 0o644)
    assert.deepEqual(readdirSync(dirname(join(root, FILE))), ['vfio-vfio_pci.json'])
  })

  it('is replaced by what is written next, and tells what is gone', async () => {
    await write(['00:04.0', '00:05.0'])
    assert.equal((await write(['00:04.0', '00:05.0'])).change, 'none')
    const { change, dropped } = await write(['00:05.0'])
    assert.deepEqual([change, dropped], ['written', ['vfio/pci=0000:00:04.0']])
    assert.equal(textOf(FILE), made(['00:05.0']).text)
    await write(['00:04.0'], 'example.com/nic')
    assert.deepEqual(readdirSync(dirname(join(root, FILE))).sort(), [
      'vfio-example.com_nic.json',
      'vfio-vfio_pci.json',
    ])
  })

  it('goes where /var/run leads, and never out of the tree', async () => {
    mkdirSync(join(root, 'var'))
    symlinkSync('/run', join(root, 'var/run'))
    assert.equal((await write(['00:04.0'])).path, '/run/cdi/vfio-vfio_pci.json')
    assert.equal(textOf('run/cdi/vfio-vfio_pci.json'), made(['00:04.0']).text)
  })

  it('is removed alone, or loses some of its devices', async () => {
    put('var/run/cdi/nvidia.json', OTHERS.replace('vfio/pci', 'nvidia.com/gpu'))
    await write(['00:04.0', '00:05.0'])
    await assert.rejects(
      removeCdi({ root, addresses: ['00:06.0'] }),
      refused(/00:06\.0/, 'ERR_VFIO_NO_DEVICE'),
    )
    await assert.rejects(removeCdi({ root, addresses: ['nope'] }), refused(/nope/, 'ERR_VFIO_BAD_ADDRESS'))
    const { change, devices, dropped } = await removeCdi({ root, addresses: ['00:04.0'] })
    assert.deepEqual(
      [change, devices, dropped],
      ['written', ['vfio/pci=0000:00:05.0'], ['vfio/pci=0000:00:04.0']],
    )
    assert.equal(textOf(FILE), made(['00:05.0']).text)
    assert.equal((await removeCdi({ root, addresses: ['00:05.0'] })).change, 'removed')
    assert.equal((await removeCdi({ root })).change, 'none')
    await write(['00:04.0'])
    assert.equal((await removeCdi({ root })).change, 'removed')
    assert.deepEqual(readdirSync(dirname(join(root, FILE))), ['nvidia.json'])
  })

  it('is left alone where it is another program’s, or was changed by hand', async () => {
    const { text } = made(['00:04.0'])
    const files: readonly (readonly [what: string, text: string])[] = [
      ['another’s', OTHERS],
      ['none', ''],
      ['half', text.slice(0, -20)],
      ['no JSON', 'kind: vfio/pci\n'],
      ['a list', '[]\n'],
      ['null', 'null\n'],
      ['reformatted', JSON.stringify(JSON.parse(text))],
      ['with more rights', text.replace('"rw"', '"rwm"')],
      ['with another node', text.replace('/dev/vfio/7', '/dev/sda')],
      ['with another name', text.replace('"name": "0000:00:04.0"', '"name": "gpu"')],
      ['with another variable', text.replace('VFIO_ADDRESSES_0000_00_04_0=', 'PATH=')],
      ['with a mount', text.replace('"deviceNodes"', '"mounts": [], "deviceNodes"')],
      ['of another kind', text.replace('vfio/pci', 'vfio/pcx')],
    ]
    for (const [what, found] of files) {
      put(FILE, found)
      await assert.rejects(write(['00:04.0']), refused(/is left alone.*--kind/), what)
      await assert.rejects(removeCdi({ root }), refused(/is left alone/), what)
      assert.equal(textOf(FILE), found, what)
    }
  })

  it('is no link, and in no directory that is one', async () => {
    put('elsewhere', 'mine')
    mkdirSync(join(root, 'var/run/cdi'), { recursive: true })
    symlinkSync(join(root, 'elsewhere'), join(root, FILE))
    await assert.rejects(write(['00:04.0']), refused(/symbolic link/))
    await assert.rejects(removeCdi({ root }), refused(/symbolic link/))
    assert.equal(textOf('elsewhere'), 'mine')
    const other = temporaryDirectory()
    mkdirSync(join(other, 'var/run'), { recursive: true })
    symlinkSync(join(root, 'var'), join(other, 'var/run/cdi'))
    await assert.rejects(writeCdi(made(['00:04.0']), { root: other }), refused(/symbolic link/))
  })

  it('is the only one with its kind, wherever and in whatever form another has it', async () => {
    const places = [
      'etc/cdi/a.json',
      'etc/cdi/vfio-vfio_pci.json',
      'var/run/cdi/b.yaml',
      'var/run/cdi/c.json',
    ]
    const texts = [
      OTHERS,
      'cdiVersion: 0.5.0\nkind: vfio/pci\ndevices: []\n',
      '---\nkind: "vfio/pci" # ours\n',
      "{cdiVersion: 0.5.0, 'kind': 'vfio/pci'}\n",
    ]
    for (const place of places) {
      for (const text of texts) {
        root = temporaryDirectory()
        put(place, text)
        await assert.rejects(write(['00:04.0']), refused(/has devices of the kind vfio\/pci already/), text)
        assert.equal((await write(['00:04.0'], 'vfio/other')).change, 'written')
      }
    }
  })

  it('is not written where another file may have its kind', async () => {
    for (const text of ['', '{', '5', '{"kind": 5}', 'devices: []\n']) {
      put('etc/cdi/broken.json', text)
      await assert.rejects(write(['00:04.0']), refused(/cannot be told.*mend or remove/), text)
    }
    // What runtimes do not read is nobody's kind.
    put('etc/cdi/broken.json', OTHERS.replace('vfio/pci', 'vfio/other'))
    put('etc/cdi/notes.txt', OTHERS)
    mkdirSync(join(root, 'etc/cdi/directory.json'))
    symlinkSync('/nowhere', join(root, 'etc/cdi/gone.json'))
    spawnSync('mkfifo', [join(root, 'etc/cdi/pipe.json')])
    assert.equal((await write(['00:04.0'])).change, 'written')
    // A link is read as runtimes read it.
    put('store/vfio.json', OTHERS)
    symlinkSync(join(root, 'store/vfio.json'), join(root, 'etc/cdi/link.json'))
    await assert.rejects(write(['00:05.0']), refused(/link\.json has devices of the kind/))
    assert.equal(textOf(FILE), made(['00:04.0']).text)
  })

  it('has a name that a directory takes', async () => {
    const label = 'a'.repeat(60)
    const kind = `${label}.${label}.${label}/${'b'.repeat(60)}`
    assert.throws(() => made(['00:04.0'], kind), refused(/the name of a file/, 'ERR_VFIO_BAD_ARGUMENT'))
    const shorter = kind.slice(0, -25)
    assert.equal((await write(['00:04.0'], shorter)).change, 'written')
    assert.equal((await removeCdi({ root, kind: shorter })).change, 'removed')
  })

  describe('by vfio cdi', () => {
    let sysfs: string
    before(() => {
      sysfs = makeHost({ devices: DEVICES }).sysfs
    })
    const vfio = (...args: string[]) => {
      const program = join(ROOT, 'dist/cli/main.js')
      const { status, stdout, stderr } = spawnSync(process.execPath, [program, 'cdi', ...args], {
        encoding: 'utf8',
      })
      return { status, stdout, stderr }
    }
    const here = () => ['--sysfs', sysfs, '--root', root]

    it('is printed, and nothing else with it', () => {
      const { status, stdout, stderr } = vfio('00:04.0', '--sysfs', sysfs)
      assert.deepEqual([status, stdout], [0, made(['00:04.0']).text])
      assert.match(stderr, /not known[\s\S]*memlock/)
      const { specification, devices } = JSON.parse(vfio('00:04.0', '--json', '--sysfs', sysfs).stdout)
      assert.deepEqual(specification, made(['00:04.0']).specification)
      assert.equal(devices[0].qualifiedName, 'vfio/pci=0000:00:04.0')
    })

    it('is written and removed', () => {
      const written = vfio('00:04.0', '00:05.0', '--write', ...here())
      assert.equal(written.stdout, `wrote ${FILE}: vfio/pci=0000:00:04.0 vfio/pci=0000:00:05.0\n`)
      assert.equal(written.status, 0)
      assert.equal(
        vfio('00:04.0', '--remove', ...here()).stdout,
        `wrote ${FILE}: vfio/pci=0000:00:05.0\nvfio/pci=0000:00:04.0 is not there for containers any more\n`,
      )
      assert.match(vfio('--remove', ...here()).stdout, /^took away .*\nvfio\/pci=0000:00:05\.0 is not there/)
      assert.equal(vfio('--remove', ...here()).stdout, `there is no ${FILE}\n`)
      assert.ok(!existsSync(join(root, FILE)))
    })

    it('is refused in a sentence, with the status of the reason', () => {
      const says = (status: number, words: RegExp, ...args: string[]) => {
        const said = vfio(...args)
        assert.deepEqual([said.status, said.stdout], [status, ''], args.join(' '))
        assert.match(said.stderr, words)
        assert.match(said.stderr, /^vfio: [^\n]*\n$/)
      }
      says(1, /run "vfio bind 0000:00:03\.0" first/, '00:03.0', '--sysfs', sysfs)
      says(2, /like example\.com\/gpu/, '00:04.0', '--kind', 'a/b', '--sysfs', sysfs)
      says(2, /--kind/, '00:04.0', '--consumer', 'kata', '--sysfs', sysfs)
      says(2, /no device is named/, '--sysfs', sysfs)
      says(2, /--root/, '00:04.0', '--write', '--sysfs', sysfs)
      says(2, /--remove/, '00:04.0', '--write', '--remove', ...here())
      says(2, /--remove/, '--remove', '--consumer', 'kata', ...here())
      says(1, /has no node of its own/, '00:04.0', '--iommufd', '--sysfs', sysfs)
      put(FILE, OTHERS)
      says(1, /is left alone/, '00:04.0', '--write', ...here())
    })
  })
})
