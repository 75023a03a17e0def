import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { type diagnose, Host, type Snapshot, VfioError } from 'vfio'
import { distance, nearest } from '../../lib/nearest.js'
import { makeHost, removeDirectories } from '../fixtures/host.js'
import { skip } from '../fixtures/skip.js'
import { ROOT, see } from './support.js'

/** As the planner makes one, to see a host in another state. */
const copyOf = (seen: Snapshot) => (seen as Snapshot & { with(news: object): Snapshot }).with({})

/** What a look says of an address that it does not have. */
function refusalOf(look: () => unknown): string {
  try {
    look()
  } catch (error) {
    assert.ok(error instanceof VfioError)
    assert.equal(error.code, 'ERR_VFIO_NO_DEVICE')
    return error.message
  }
  assert.fail('it was found')
}

describe('an address that there is not', () => {
  let sysfs = ''
  let host: Host
  before(() => {
    const addresses = ['0000:01:00.0', '0000:01:00.1', '0000:59:00.0', '0001:05:00.0']
    sysfs = makeHost({ devices: addresses.map((address, group) => ({ address, group })) }).sysfs
    host = new Host({ sysfs })
  })
  after(removeDirectories)
  const LIST = ': "vfio list" shows those that there are'

  const cases: readonly (readonly [address: string, hint: string])[] = [
    ['0000:95:00.0', ' (did you mean 0000:59:00.0?)'],
    ['0000:59:00.1', ' (did you mean 0000:59:00.0?)'],
    ['0000:01:00.7', ' (did you mean 0000:01:00.0 or 0000:01:00.1?)'],
    ['0000:05:00.0', ' (in another domain there is 0001:05:00.0)'],
    ['0007:c8:1a.5', ''],
    // Two digits from 0000:01:00.0, and from nearly all that a host has.
    ['0000:88:00.0', ''],
  ]
  for (const [address, hint] of cases) {
    it(`is not there, whether all of the host was looked at or a part of it: ${address}`, () => {
      const wanted = `there is no PCI device ${address} on this host${hint}${LIST}`
      assert.equal(
        refusalOf(() => host.snapshot().device(address)),
        wanted,
      )
      // The same sentence for a quick look at it alone, which sees nobody else.
      assert.equal(
        refusalOf(() => host.snapshot({ around: [address] }).device(address)),
        wanted,
      )
      assert.equal(
        refusalOf(() => copyOf(host.snapshot({ around: [address] })).device(address)),
        wanted,
      )
    })
  }

  it('names a whole device too', () => {
    const wanted = `there is no PCI device 0000:95:00 on this host (did you mean 0000:59:00?)${LIST}`
    assert.equal(
      refusalOf(() => host.snapshot().devicesAt('95:00')),
      wanted,
    )
    assert.equal(
      refusalOf(() => host.snapshot({ around: ['95:00'] })),
      wanted,
    )
  })

  it('is not known to be absent where other devices were looked at', () => {
    const part = host.snapshot({ around: ['59:00.0'] })
    assert.equal(
      refusalOf(() => part.device('0000:77:00.0')),
      '0000:77:00.0 was not looked at: this look was at other devices',
    )
  })

  it('is told apart from a host without any', () => {
    assert.match(
      refusalOf(() => see({}).device('59:00.0')),
      /on this host: it shows none at all, and "vfio doctor" tells why$/,
    )
  })

  it('is near by the fewest changes of single characters', () => {
    for (const [from, to, far] of [
      ['', '', 0],
      ['abc', 'abc', 0],
      ['abc', 'acb', 1],
      ['abc', 'ab', 1],
      ['abc', 'axbc', 1],
      ['abc', 'abd', 1],
      ['abc', 'cab', 2],
      ['abc', '', 3],
    ] as const) {
      assert.equal(distance(from, to), far, `${from} ${to}`)
      assert.equal(distance(to, from), far)
    }
    assert.deepEqual(nearest('lsit', ['list', 'show', 'exit']), ['list'])
    assert.deepEqual(nearest('nothing', ['list', 'show']), [])
    assert.deepEqual(nearest('a', ['b', 'c', 'd', 'e']), ['b', 'c', 'd'])
  })
})

describe('a host of which something is missing', function () {
  this.timeout(60_000)
  after(removeDirectories)

  /** Runs vfio where a directory is empty. */
  function vfioWithout(directory: string, ...args: string[]) {
    return spawnSync(
      'unshare',
      [
        '-m',
        'sh',
        '-c',
        'mount -t tmpfs none "$1" && shift && exec "$@"',
        'sh',
        directory,
        process.execPath,
        join(ROOT, 'dist/cli/main.js'),
        ...args,
      ],
      { encoding: 'utf8', env: { ...process.env, VFIO_DEBUG: undefined } },
    )
  }
  before(function () {
    const { status } = spawnSync('unshare', ['-m', 'mount', '-t', 'tmpfs', 'none', '/mnt'])
    if (status !== 0) skip(this, 'mounts may not be changed here')
  })

  it('is not taken for one without devices: sysfs that is not mounted', () => {
    for (const args of [['list'], ['doctor'], ['check', '01:00.0'], ['bind', '01:00.0', '--dry-run']]) {
      const { status, stdout, stderr } = vfioWithout('/sys', ...args)
      assert.deepEqual([status, stdout], [1, ''], args.join(' '))
      assert.match(stderr, /^vfio: sysfs is not mounted at \/sys, .*: mount -t sysfs sysfs \/sys \(.*\)\n$/)
    }
  })

  it('says what is not known without proc', () => {
    assert.match(
      vfioWithout('/proc', 'list').stderr,
      /^vfio: proc is not mounted .*: mount -t proc proc \/proc.*\n$/,
    )
    const { stdout, stderr, status } = vfioWithout('/proc', 'doctor', '--json')
    const { checks } = JSON.parse(stdout) as ReturnType<typeof diagnose>
    const view = checks.find(({ name }) => name === 'view')
    assert.deepEqual([status, stderr, view?.status], [1, '', 'fail'])
    assert.match(view?.cure ?? '', /^mount -t proc proc \/proc/)
  })

  it('says why no PCI function is in sight', () => {
    for (const [directory, why, cure] of [
      ['/sys/bus/pci/devices', /this host shows no PCI function/, /dmesg/],
      ['/sys/bus', /this kernel has no PCI bus/, /CONFIG_PCI/],
    ] as const) {
      const listed = vfioWithout(directory, 'list')
      assert.equal(listed.status, 0)
      assert.match(listed.stderr, /^vfio: [^\n]+\n$/)
      assert.match(listed.stderr, why)
      assert.match(listed.stderr, cure)
      const doctor = vfioWithout(directory, 'doctor')
      assert.deepEqual([doctor.status, doctor.stderr], [1, ''])
      assert.match(doctor.stdout.replace(/\s+/g, ' '), why)
      assert.match(
        vfioWithout(directory, 'check', '01:00.0').stderr,
        /it shows none at all, and "vfio doctor" tells why/,
      )
    }
  })
})
