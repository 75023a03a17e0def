import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type DeviceEvent, watchDevices } from 'vfio'
import type { Binding } from '../../lib/native/binding.js'
import { NodeEvents } from '../../lib/sysfs/node-events.js'
import { skip } from '../fixtures/skip.js'
import { ROOT } from './fake.js'

const NVME = '0000:01:00.0'

/** Directories as `/dev` and `/sys` have them, on the real file system. */
class Trees {
  readonly base = mkdtempSync(join(tmpdir(), 'vfio-nodes-'))
  readonly dev = join(this.base, 'dev')
  readonly sysfs = join(this.base, 'sys')

  static readonly made: string[] = []

  constructor() {
    Trees.made.push(this.base)
    mkdirSync(join(this.dev, 'vfio'), { recursive: true })
    for (const member of [NVME, '0000:01:00.1'])
      mkdirSync(join(this.sysfs, 'kernel/iommu_groups/7/devices', member), { recursive: true })
    mkdirSync(join(this.sysfs, 'class/vfio-dev'), { recursive: true })
    symlinkSync(`../../devices/pci0000:00/${NVME}/vfio-dev/vfio3`, join(this.sysfs, 'class/vfio-dev/vfio3'))
  }

  node(name: string): string {
    const path = join(this.dev, 'vfio', name)
    writeFileSync(path, '')
    return path
  }
}

/** The addon as it is: the library that is compiled here has none. */
const { Messages } = createRequire(import.meta.url)(join(ROOT, 'build/Release/vfio.node')) as Binding

/** What tells of these trees, and the end of it. */
class Nodes {
  readonly native = Messages.openInotify()
  readonly events: NodeEvents

  constructor({ dev, sysfs }: Trees) {
    this.events = new NodeEvents(this.native, dev, sysfs)
  }
}

/** What is heard by now. */
function heard({ native, events: nodes }: Nodes): string[] {
  const into = new Uint8Array(16 << 10)
  const events: DeviceEvent[] = []
  for (let length = native.read(into); length !== 0; length = native.read(into)) {
    assert.ok(length > 0, `errno ${-length}`)
    events.push(...nodes.events(into.slice(0, length)))
  }
  return events.map(({ kind, address }) => `${kind} ${address}`)
}

const openAndClose = (path: string) => closeSync(openSync(path, 'r'))

describe('opens and closes of nodes', () => {
  after(() => {
    for (const base of Trees.made) rmSync(base, { recursive: true })
  })

  it('are told of each member of a group, and of the device of a node of its own', () => {
    const trees = new Trees()
    const group = trees.node('7')
    mkdirSync(join(trees.dev, 'vfio/devices'))
    const own = trees.node('devices/vfio3')
    const nodes = new Nodes(trees)
    assert.deepEqual(heard(nodes), [])
    const fd = openSync(group, 'r')
    assert.deepEqual(heard(nodes), [`opened ${NVME}`, 'opened 0000:01:00.1'])
    closeSync(fd)
    assert.deepEqual(heard(nodes), [`closed ${NVME}`, 'closed 0000:01:00.1'])
    const written = openSync(own, 'r+')
    closeSync(written)
    assert.deepEqual(heard(nodes), [`opened ${NVME}`, `closed ${NVME}`])
    nodes.native.closeNow()
  })

  it('are told of no other file, nor of the directories themselves', () => {
    const trees = new Trees()
    mkdirSync(join(trees.dev, 'vfio/devices'))
    const nodes = new Nodes(trees)
    for (const name of ['vfio', '7x', 'noiommu-', 'devices/7', 'devices/vfio', 'devices/vfio3x'])
      openAndClose(trees.node(name))
    for (const directory of ['vfio', 'vfio/devices']) readdirSync(join(trees.dev, directory))
    assert.deepEqual(heard(nodes), [])
    const own = trees.node('noiommu-7')
    heard(nodes)
    openAndClose(own)
    assert.equal(heard(nodes).length, 4)
    nodes.native.closeNow()
  })

  it('are told in directories that come later, and come again', () => {
    const trees = new Trees()
    rmSync(join(trees.dev, 'vfio'), { recursive: true })
    const nodes = new Nodes(trees)
    for (let turn = 0; turn < 2; turn++) {
      // Who opened something in it before it was watched is not told.
      mkdirSync(join(trees.dev, 'vfio'))
      assert.deepEqual(heard(nodes), ['lost null'])
      mkdirSync(join(trees.dev, 'vfio/devices'))
      assert.deepEqual(heard(nodes), ['lost null'])
      const [own, group] = [trees.node('devices/vfio3'), trees.node('7')]
      heard(nodes)
      openAndClose(own)
      openAndClose(group)
      assert.equal(heard(nodes).length, 6)
      rmSync(join(trees.dev, 'vfio'), { recursive: true })
      heard(nodes)
    }
    mkdirSync(join(trees.base, 'made/devices'), { recursive: true })
    writeFileSync(join(trees.base, 'made/7'), '')
    renameSync(join(trees.base, 'made'), join(trees.dev, 'vfio'))
    heard(nodes)
    openAndClose(join(trees.dev, 'vfio/7'))
    assert.equal(heard(nodes).length, 4)
    nodes.native.closeNow()
  })

  it('are still those of a device that is gone from sysfs when it is closed; else of nobody that is known', () => {
    const trees = new Trees()
    mkdirSync(join(trees.dev, 'vfio/devices'))
    const [own, unknown] = [trees.node('devices/vfio3'), trees.node('9')]
    const nodes = new Nodes(trees)
    const fd = openSync(own, 'r')
    assert.deepEqual(heard(nodes), [`opened ${NVME}`])
    rmSync(join(trees.sysfs, 'class/vfio-dev/vfio3'))
    closeSync(fd)
    openAndClose(unknown)
    assert.deepEqual(heard(nodes), [`closed ${NVME}`, 'opened null', 'closed null'])
    nodes.native.closeNow()
  })

  it('that were more than there is room for are lost, and that is told', function () {
    this.timeout(60_000)
    const trees = new Trees()
    const node = trees.node('vfio')
    const nodes = new Nodes(trees)
    const most = Number(readFileSync('/proc/sys/fs/inotify/max_queued_events', 'utf8'))
    if (most > 1 << 16) return skip(this, 'this host lets too many wait')
    for (let count = 0; count <= most / 2; count++) openAndClose(node)
    assert.deepEqual(heard(nodes), ['lost null'])
    nodes.native.closeNow()
  })

  it('are heard only where that was asked for, and where the user has inotify instances left', function () {
    for (const opens of [true, false]) {
      const watch = watchDevices('all', () => {}, { opens })
      assert.equal(watch.hears.has('opens'), opens)
      watch.close()
    }
    const source = `
      import { constants } from 'node:os'
      import { watchDevices } from 'vfio'
      const all = []
      for (;;) {
        const watch = watchDevices('all', () => {}, { opens: true })
        all.push(watch)
        if (!watch.hears.has('opens')) break
      }
      console.log(all.at(-1).unseen.at(-1))
      for (const watch of all) watch.close()`
    const most = Number(readFileSync('/proc/sys/fs/inotify/max_user_instances', 'utf8'))
    if (most > 1024) return skip(this, 'this host gives a user too many inotify instances')
    // Those are to end first, and the files of this process not: a sanitizer needs some too.
    const files = 16 * most + 1024
    const raised = ['-c', `ulimit -n ${files} && exec "$@"`, 'sh']
    if (spawnSync('sh', [...raised, 'true']).status !== 0)
      return skip(this, `${files} files are not to be had`)
    const { stdout, stderr, status } = spawnSync(
      'sh',
      [...raised, process.execPath, '--input-type=module', '-e', source],
      { cwd: ROOT, encoding: 'utf8', timeout: 100_000 },
    )
    assert.equal(status, 0, stderr)
    assert.match(
      stdout,
      /^it cannot be heard here when somebody opens or closes a device \(inotify: EMFILE, this user has as many inotify instances/,
    )
  })
})
