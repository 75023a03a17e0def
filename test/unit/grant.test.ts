import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { grant, grantRule, Host, type Revocation, revoke, revokeAll, type Snapshot, VfioError } from 'vfio'
import { type HostDescription, makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { skip } from '../fixtures/skip.js'
import { ROOT, runs, SEED } from './support.js'

const HOST: HostDescription = {
  devices: [
    { address: '0000:00:03.0', driver: 'nvme', group: 6 },
    { address: '0000:00:04.0', driver: 'vfio-pci', group: 7, vfioDevice: 'vfio0' },
    { address: '0000:00:05.0', driver: 'vfio-pci', group: 8, vfioDevice: 'vfio1' },
    { address: '0000:00:05.1', driver: 'vfio-pci', group: 8, vfioDevice: 'vfio2' },
    { address: '0000:00:06.0' },
  ],
}
const NODES = ['vfio/7', 'vfio/8', 'vfio/devices/vfio0', 'vfio/devices/vfio1', 'vfio/devices/vfio2', 'iommu']

const isCode = (code: string) => (error: unknown) => error instanceof VfioError && error.code === code
const mayMakeNodes = () => {
  try {
    makeNode(join(temporaryDirectory(), 'null'), 3)
    return true
  } catch {
    return false
  }
}

function makeNode(path: string, minor: number): void {
  execFileSync('mknod', ['-m', '600', path, 'c', '1', String(minor)], { stdio: 'ignore' })
}

/** A host that has each of the nodes, under the numbers that {@link makeNode} gives them. */
function seeNodes(): Snapshot {
  const trees = makeHost(HOST)
  const directories = [
    'class/vfio/7',
    'class/vfio/8',
    'bus/pci/devices/0000:00:04.0/vfio-dev/vfio0',
    'bus/pci/devices/0000:00:05.0/vfio-dev/vfio1',
    'bus/pci/devices/0000:00:05.1/vfio-dev/vfio2',
    'class/misc/iommu',
  ]
  for (const [index, directory] of directories.entries()) {
    mkdirSync(join(trees.sysfs, directory), { recursive: true })
    writeFileSync(join(trees.sysfs, directory, 'dev'), `1:${index + 1}\n`)
  }
  return new Host(trees).snapshot()
}

describe('grant', function () {
  this.timeout(60_000)
  let seen: Snapshot
  let dev: string
  let journal: string
  before(() => {
    seen = seeNodes()
  })
  after(removeDirectories)

  beforeEach(function () {
    if (!mayMakeNodes()) skip(this, 'only root may make device nodes')
    const root = temporaryDirectory()
    dev = `${root}/dev`
    journal = `${root}/run`
    mkdirSync(`${dev}/vfio/devices`, { recursive: true })
    for (const [index, name] of NODES.entries()) makeNode(`${dev}/${name}`, index + 1)
    chmodSync(`${dev}/iommu`, 0o660)
  })

  const owner = (name: string) => {
    const { uid, gid, mode } = lstatSync(`${dev}/${name}`)
    return `${uid}:${gid} ${(mode & 0o7777).toString(8)}`
  }
  const picture = () => NODES.map((name) => `${name} ${owner(name)}`)
  const give = (address: string, user: string | number, group?: string | number) =>
    grant(seen, address, { user, group, dev, journal })
  const takeBack = (address: string): Promise<Revocation> =>
    revoke(address, { journal, sysfs: seen.host.paths.sysfs })

  it('gives the nodes of a device to a user, and only those', async () => {
    const before = picture()
    const given = await give('00:04.0', 'nobody')
    assert.equal(given.uid, 65534)
    assert.deepEqual(
      given.nodes.map(({ path }) => path.slice(dev.length + 1)),
      ['vfio/7', 'vfio/devices/vfio0', 'iommu'],
    )
    assert.deepEqual(
      [owner('vfio/7'), owner('vfio/devices/vfio0'), owner('iommu')],
      ['65534:0 600', '65534:0 600', '65534:0 660'],
    )
    assert.deepEqual(picture().filter((line, index) => line !== before[index]).length, 3)
    const report = await takeBack('00:04.0')
    assert.equal(report.restored.length, 3)
    assert.deepEqual(picture(), before)
    assert.equal(existsSync(journal), false)
  })

  it('lets a group in too', async () => {
    await give('00:04.0', 1000, 'daemon')
    assert.equal(owner('vfio/7'), '1000:1 660')
  })

  it('remembers the state before the first of several grants', async () => {
    const before = picture()
    await give('00:04.0', 1000)
    await give('00:04.0', 1001)
    assert.equal(owner('vfio/7'), '1001:0 600')
    await takeBack('00:04.0')
    assert.deepEqual(picture(), before)
  })

  it('gives back a shared node with the last grant that needs it', async () => {
    const before = picture()
    await give('00:05.0', 1000)
    await give('00:05.1', 1000)
    const first = await takeBack('00:05.0')
    assert.deepEqual(first.kept, [`${dev}/vfio/8`, `${dev}/iommu`])
    assert.equal(owner('vfio/8'), '1000:0 600')
    assert.equal(
      (await revokeAll(['00:05.1', '00:04.0'], { journal, sysfs: seen.host.paths.sysfs })).length,
      1,
    )
    assert.deepEqual(picture(), before)
  })

  /** Another program that grants or revokes at this moment, until its input ends. */
  async function busyProgram() {
    const program = `import { lockGroups, NODE_OWNERS } from './build/ts/lib/change/group-lock.js'
      const lock = lockGroups(${JSON.stringify(seen.host.paths.sysfs)}, [NODE_OWNERS])
      console.log('ready')
      process.stdin.on('end', () => lock[Symbol.dispose]()).resume()`
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
      cwd: ROOT,
      env: { ...process.env, VFIO_ADDON: join(ROOT, 'build/Release/vfio.node') },
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    await once(child.stdout, 'data')
    return child
  }

  it('waits until another program has granted or revoked, and not for ever', async () => {
    const before = picture()
    await give('00:04.0', 1000)
    const granted = picture()
    const busy = await busyProgram()
    await assert.rejects(takeBack('00:04.0'), isCode('ERR_VFIO_LOCKED'))
    assert.deepEqual(picture(), granted)
    const turn = takeBack('00:04.0')
    // It has asked for the lock by then, and not got it.
    await new Promise(setImmediate)
    busy.stdin.end()
    assert.equal((await turn).restored.length, 3)
    assert.deepEqual(picture(), before)
  })

  it('tells who has the device open still, in the tree where it was granted', async () => {
    const enable = join(seen.host.paths.sysfs, 'bus/pci/devices/0000:00:04.0/enable')
    const closed = readFileSync(enable, 'utf8')
    await give('00:04.0', 1000)
    writeFileSync(enable, '1\n')
    try {
      assert.match((await takeBack('00:04.0')).holders.join(), /^it is open through VFIO in a process/)
    } finally {
      writeFileSync(enable, closed)
    }
  })

  it('takes a shared node from nobody', async () => {
    await give('00:05.0', 1000)
    const before = picture()
    await assert.rejects(give('00:05.1', 1001), isCode('ERR_VFIO_IN_USE'))
    assert.deepEqual(picture(), before)
    await assert.rejects(takeBack('00:05.1'), isCode('ERR_VFIO_NOT_GRANTED'))
  })

  it('leaves alone what somebody changed since', async () => {
    await give('00:04.0', 1000)
    chownSync(`${dev}/vfio/7`, 7, 7)
    const report = await takeBack('00:04.0')
    assert.equal(report.changed.length, 1)
    assert.equal(owner('vfio/7'), '7:7 600')
  })

  it('leaves alone a new node of the same name', async () => {
    await give('00:04.0', 1000)
    rmSync(`${dev}/vfio/7`)
    makeNode(`${dev}/vfio/7`, 9)
    chownSync(`${dev}/vfio/7`, 1000, 0)
    assert.ok((await takeBack('00:04.0')).kept.includes(`${dev}/vfio/7`))
    assert.equal(owner('vfio/7'), '1000:0 600')
  })

  it('puts back what a crash left half given', async () => {
    const before = picture()
    await give('00:04.0', 1000, 1000)
    chownSync(`${dev}/iommu`, 0, 0)
    chmodSync(`${dev}/vfio/7`, 0o600)
    await takeBack('00:04.0')
    assert.deepEqual(picture(), before)
  })

  it('gives what devices share to one of two users who ask at once', async () => {
    const before = picture()
    const asked = await Promise.allSettled([give('00:04.0', 1111), give('00:05.0', 2222)])
    const lost = asked.flatMap((one) => (one.status === 'rejected' ? one.reason : []))
    assert.equal(lost.length, 1)
    assert(isCode('ERR_VFIO_IN_USE')(lost[0]), String(lost[0]))
    const won = asked.flatMap((one) => (one.status === 'fulfilled' ? one.value : []))
    assert.equal(owner('iommu'), `${won[0]?.uid}:0 660`)
    await takeBack(won[0]?.address ?? '')
    assert.deepEqual(picture(), before)
  })

  it('goes on beside a record that is damaged, and takes no node that may be granted by it', async () => {
    const before = picture()
    await give('00:05.0', 1000)
    writeFileSync(`${journal}/grant-0000:00:05.0.json`, '{')
    // /dev/iommu is user 1000's, and nothing tells any more why.
    await assert.rejects(give('00:04.0', 1001), isCode('ERR_VFIO_BAD_JOURNAL'))
    chownSync(`${dev}/iommu`, 0, 0)
    chmodSync(`${dev}/iommu`, 0o660)
    await give('00:04.0', 1001)
    await takeBack('00:04.0')
    chownSync(`${dev}/vfio/8`, 0, 0)
    chownSync(`${dev}/vfio/devices/vfio1`, 0, 0)
    assert.equal(owner('vfio/7'), '0:0 600')
    assert.deepEqual(
      picture().map((line) => line.split(' ')[1]),
      before.map((line) => line.split(' ')[1]),
    )
  })

  it('is refused while another program grants', async () => {
    const locks = `use Fcntl; open(my $file, '+<', $ARGV[0]) or die; $| = 1;
      my $lock = pack('s s x4 q q l x4', F_WRLCK, 0, 2 ** 31, 1, 0);
      fcntl($file, F_SETLK, $lock) or die; print 'held'; <STDIN>`
    const other = spawn('perl', ['-e', locks, `${seen.host.paths.sysfs}/bus/pci/rescan`], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    const ended = once(other, 'close')
    try {
      await once(other.stdout, 'data')
      const before = picture()
      // Whatever journal that one has.
      await assert.rejects(give('00:04.0', 'nobody'), {
        code: 'ERR_VFIO_LOCKED',
        message: /^another program is changing whom device nodes belong to right now/,
      })
      assert.deepEqual(picture(), before)
      assert.equal(existsSync(journal), false)
    } finally {
      other.stdin.end('\n')
      await ended
    }
    assert.equal((await give('00:04.0', 'nobody')).uid, 65534)
  })

  it('is taken back whole when it was given anew and a crash came between', async () => {
    const before = picture()
    await give('00:04.0', 1001)
    const first = picture()
    await give('00:04.0', 1002)
    // The record of the second is written before its first change.
    for (const name of ['vfio/7', 'vfio/devices/vfio0', 'iommu']) {
      chownSync(`${dev}/${name}`, 1001, 0)
      chmodSync(`${dev}/${name}`, lstatSync(`${dev}/${name}`).mode & 0o7777)
    }
    assert.deepEqual(picture(), first)
    assert.equal((await takeBack('00:04.0')).changed.length, 0)
    assert.deepEqual(picture(), before)
  })

  it('records readable for root alone, before the first change', async () => {
    await give('00:04.0', 1000)
    const file = `${journal}/grant-0000:00:04.0.json`
    assert.equal(statSync(file).mode & 0o7777, 0o600)
    assert.deepEqual(readdirSync(journal), ['grant-0000:00:04.0.json'])
    assert.equal(JSON.parse(readFileSync(file, 'utf8')).nodes.length, 3)
  })

  it('goes without the nodes that this kernel does not have', async () => {
    rmSync(`${dev}/iommu`)
    rmSync(`${dev}/vfio/devices`, { recursive: true })
    assert.deepEqual(
      (await give('00:04.0', 1000)).nodes.map(({ path }) => path),
      [`${dev}/vfio/7`],
    )
  })

  it('tells the limit on locked memory', async () => {
    const { memlock } = await grant(seen, '00:04.0', { user: 'nobody', memory: 2 ** 34, dev, journal })
    assert.equal(memlock?.bytes, 17 * 2 ** 30)
    assert.equal(memlock?.charged, 'user')
    assert.match(memlock?.arithmetic ?? '', /16 GiB of guest memory \+ 1 GiB/)
  })

  describe('refuses', () => {
    const WRONG: readonly [string, () => Promise<unknown>, string][] = [
      ['a device of the host', () => give('00:03.0', 1000), 'ERR_VFIO_BAD_NODE'],
      ['a device in no group', () => give('00:06.0', 1000), 'ERR_VFIO_NO_GROUP'],
      ['a device that is not there', () => give('77:00.0', 1000), 'ERR_VFIO_NO_DEVICE'],
      ['an unknown user', () => give('00:04.0', 'no-such-user-here'), 'ERR_VFIO_NO_ACCOUNT'],
      ['an unknown group', () => give('00:04.0', 1000, 'no-such-group-here'), 'ERR_VFIO_NO_ACCOUNT'],
      ['the id that means nobody at all', () => give('00:04.0', '4294967295'), 'ERR_VFIO_BAD_ARGUMENT'],
      ['a negative id', () => give('00:04.0', -1), 'ERR_VFIO_BAD_ARGUMENT'],
      ['no name', () => give('00:04.0', ''), 'ERR_VFIO_BAD_ARGUMENT'],
      ['a name with a NUL', () => give('00:04.0', 'root\0'), 'ERR_VFIO_BAD_ARGUMENT'],
      [
        'no memory',
        () => grant(seen, '00:04.0', { user: 0, memory: 0, dev, journal }),
        'ERR_VFIO_BAD_ARGUMENT',
      ],
    ]
    for (const [what, act, code] of WRONG) {
      it(what, async () => {
        const before = picture()
        await assert.rejects(act(), isCode(code))
        assert.deepEqual(picture(), before)
        assert.equal(existsSync(journal), false)
      })
    }

    const PLACES: readonly [string, (path: string) => void][] = [
      ['a link', (path) => symlinkSync('/dev/null', path)],
      ['a link to nowhere', (path) => symlinkSync('/nowhere', path)],
      ['a file', (path) => writeFileSync(path, '')],
      ['a directory', (path) => mkdirSync(path)],
      ['a block device', (path) => execFileSync('mknod', [path, 'b', '7', '200'])],
    ]
    for (const [what, put] of PLACES) {
      for (const name of ['vfio/7', 'iommu']) {
        it(`${what} in place of ${name}`, async () => {
          const former = lstatSync('/dev/null')
          rmSync(`${dev}/${name}`)
          put(`${dev}/${name}`)
          const before = picture()
          await assert.rejects(give('00:04.0', 1000), isCode('ERR_VFIO_BAD_NODE'))
          assert.deepEqual(picture(), before)
          const { uid, gid, mode } = lstatSync('/dev/null')
          assert.deepEqual([uid, gid, mode], [former.uid, former.gid, former.mode])
        })
      }
    }

    it('to give back through a link that came in place of a node', async () => {
      await give('00:04.0', 1000)
      renameSync(`${dev}/vfio/7`, `${dev}/elsewhere`)
      symlinkSync(`${dev}/vfio/8`, `${dev}/vfio/7`)
      await assert.rejects(takeBack('00:04.0'), isCode('ERR_VFIO_BAD_NODE'))
      assert.equal(owner('vfio/8'), '0:0 600')
    })
  })

  describe('records', () => {
    it('are looked for in vain where there is no directory', async () => {
      await assert.rejects(
        revoke('00:04.0', { journal: `${dev}/no/such/place` }),
        isCode('ERR_VFIO_NOT_GRANTED'),
      )
    })

    const file = () => `${journal}/grant-0000:00:04.0.json`

    const HOSTILE: readonly [string, (text: string) => void][] = [
      ['truncated', (text) => writeFileSync(file(), text.slice(0, text.length / 2))],
      ['empty', () => writeFileSync(file(), '')],
      ['of another device', (text) => writeFileSync(file(), text.replace('00:04.0', '00:05.0'))],
      ['of a version to come', (text) => writeFileSync(file(), text.replace('"version": 1', '"version": 2'))],
      ['about another file', (text) => writeFileSync(file(), text.replace('vfio/7"', 'shadow"'))],
      ['with a path that climbs', (text) => writeFileSync(file(), text.replace('/vfio/7"', '/../vfio/7"'))],
      ['with a huge id', (text) => writeFileSync(file(), text.replace(/"uid": \d+/, '"uid": 4294967295'))],
      [
        'with a mode of too many bits',
        (text) => writeFileSync(file(), text.replace(/"mode": \d+/, '"mode": 65536')),
      ],
      ['with a prototype', () => writeFileSync(file(), '{"__proto__":{"version":1},"nodes":[]}')],
      ['writable for all', () => chmodSync(file(), 0o666)],
      ["a stranger's", () => chownSync(file(), 1234, 1234)],
      ['too large', () => writeFileSync(file(), ' '.repeat(2 ** 21))],
      [
        'a link',
        (text) => {
          writeFileSync(`${journal}/other`, text)
          rmSync(file())
          symlinkSync(`${journal}/other`, file())
        },
      ],
      [
        'a FIFO',
        () => {
          rmSync(file())
          execFileSync('mkfifo', [file()])
        },
      ],
    ]
    for (const [what, spoil] of HOSTILE) {
      it(`are refused and nothing is changed: ${what}`, async () => {
        await give('00:04.0', 1000)
        spoil(readFileSync(file(), 'utf8'))
        const before = picture()
        const names = readdirSync(journal)
        const isTyped = (error: unknown) =>
          isCode('ERR_VFIO_BAD_JOURNAL')(error) || isCode('ERR_VFIO_BAD_FILE')(error)
        await assert.rejects(takeBack('00:04.0'), isTyped)
        await assert.rejects(give('00:04.0', 1001), isTyped)
        assert.deepEqual(picture(), before)
        assert.deepEqual(readdirSync(journal), names)
      })
    }

    it('of an earlier boot hold no more, and go', async () => {
      await give('00:04.0', 1000)
      writeFileSync(file(), readFileSync(file(), 'utf8').replace(/"bootId": "[^"]*"/, '"bootId": "before"'))
      assert.deepEqual(await takeBack('00:04.0'), {
        address: '0000:00:04.0',
        restored: [],
        kept: [],
        changed: [],
        holders: [],
      })
      assert.equal(owner('vfio/7'), '1000:0 600')
      assert.equal(existsSync(file()), false)
    })

    it(`of any text give a typed error, and touch no node (seed ${SEED})`, async () => {
      await give('00:04.0', 1000)
      const valid = JSON.parse(readFileSync(file(), 'utf8'))
      const before = picture()
      const path = fc.oneof(
        fc.string(),
        fc.constantFrom('/etc/passwd', `${dev}/vfio/8/../../vfio/8`, `${dev}/vfio/devices`),
      )
      const spoiled = fc.oneof(
        fc.string(),
        fc.json(),
        path.map((wrong) => JSON.stringify({ ...valid, nodes: [{ ...valid.nodes[0], path: wrong }] })),
        fc.nat(JSON.stringify(valid).length - 1).map((at) => JSON.stringify(valid).slice(0, at)),
      )
      await fc.assert(
        fc.asyncProperty(spoiled, async (text) => {
          writeFileSync(file(), text)
          await assert.rejects(takeBack('00:04.0'), isCode('ERR_VFIO_BAD_JOURNAL'))
          assert.deepEqual(picture(), before)
        }),
        { numRuns: runs(200) },
      )
    })
  })

  it(`takes any address, user and group, or refuses with a typed error (seed ${SEED})`, async () => {
    const outside = lstatSync('/dev/null')
    const account = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.integer(),
      fc.constantFrom('root', '0', '../root', '$(id)'),
    )
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(fc.constant('00:04.0'), fc.string()),
        account,
        account,
        async (address, user, group) => {
          try {
            await give(address, user, group)
            await takeBack(address)
          } catch (error) {
            if (!(error instanceof VfioError)) throw error
          }
        },
      ),
      { numRuns: runs(100) },
    )
    const { uid, gid, mode } = lstatSync('/dev/null')
    assert.deepEqual([uid, gid, mode], [outside.uid, outside.gid, outside.mode])
  })
})

describe('grantRule', () => {
  after(removeDirectories)
  const seen = () => new Host(makeHost(HOST)).snapshot()

  it('finds the nodes by the address of the device', () => {
    assert.deepEqual(
      grantRule(seen(), '00:04.0', { user: 'alice', group: 'vm' }).trim().split('\n').slice(1),
      [
        'SUBSYSTEM=="vfio", KERNEL=="[0-9]*", TEST=="/sys/kernel/iommu_groups/%k/devices/0000:00:04.0", OWNER="alice", GROUP="vm", MODE="0660"',
        'SUBSYSTEM=="vfio-dev", KERNELS=="0000:00:04.0", OWNER="alice", GROUP="vm", MODE="0660"',
        'SUBSYSTEM=="misc", KERNEL=="iommu", OWNER="alice", GROUP="vm", MODE="0660"',
      ],
    )
  })

  it('finds the node of a group without an IOMMU by its own name', () => {
    const trees = makeHost({ ...HOST, groups: { 7: { noIommu: true } } })
    const [, rule] = grantRule(new Host(trees).snapshot(), '00:04.0', { user: 'alice' }).split('\n')
    assert.equal(
      rule,
      'SUBSYSTEM=="vfio", KERNEL=="noiommu-[0-9]*", TEST=="/sys/kernel/iommu_groups/%n/devices/0000:00:04.0", OWNER="alice", MODE="0600"',
    )
  })

  for (const user of ['a"b', 'a,b', '$env{X}', '%k', 'a b', 'a\nb', '']) {
    it(`has no room for ${JSON.stringify(user)}`, () => {
      assert.throws(() => grantRule(seen(), '00:04.0', { user }), isCode('ERR_VFIO_BAD_ARGUMENT'))
    })
  }
})
