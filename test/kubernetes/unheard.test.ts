import assert from 'node:assert/strict'
import fs, { type FSWatcher, mkdirSync, rmSync, watch } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { join } from 'node:path'
import { WatchedDirectory } from '../../kubernetes/src/directory.js'
import { Endpoint } from '../../kubernetes/src/endpoint.js'
import { removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { FakeKubelet } from './fake-kubelet.js'
import { configured, disk, Node } from './support.js'

const DISK = 'example.com/nvme'
const DISKS = configured({ name: DISK, consumer: 'plain', select: { class: 'nvme' } })
const A = '0000:02:00.0'

/** In the place of `fs.watch`, also for those who have imported it. */
function replaceWatch(replacement: typeof watch): void {
  fs.watch = replacement
  syncBuiltinESMExports()
}

describe('what the device plugin does not hear', () => {
  const real = watch
  let node: Node
  afterEach(async () => {
    replaceWatch(real)
    await node?.end()
    removeDirectories()
  })

  it('changes of directories: it says so, looks from time to time, and finds sockets and kubelets by that', async () => {
    node = new Node({ devices: [disk('02', 2)] })
    await node.kubelet.start()
    replaceWatch((() => {
      throw Object.assign(new Error('too many open files'), { code: 'EMFILE' })
    }) as unknown as typeof watch)
    await node.start(DISKS)
    await node.kubelet.untilHealth(DISK, { [A]: true })
    const said = node.log.filter((line) =>
      /device-plugins are not heard \(EMFILE\): it is looked at every 5 s instead/.test(line),
    )
    assert.equal(said.length, 1)
    node.kubelet.stop()
    await node.kubelet.start()
    await node.kubelet.until('it registered again', ({ registrations }) => registrations.length === 2)
    await node.kubelet.untilHealth(DISK, { [A]: true })
    // As soon as it can be watched it is.
    replaceWatch(real)
    rmSync(join(node.trees.dev, 'vfio/2'))
    await node.kubelet.untilHealth(DISK, { [A]: false })
  })

  it('a directory whose watch has ended: it is told of, and watched again', () => {
    const path = join(temporaryDirectory(), 'inside')
    mkdirSync(path)
    const watchers: FSWatcher[] = []
    replaceWatch(((...args: Parameters<typeof watch>) => {
      const watcher = real(...args)
      watchers.push(watcher)
      return watcher
    }) as typeof watch)
    let told = 0
    const watched = new WatchedDirectory(path, () => told++)
    try {
      assert.deepEqual([told, watchers.length, watched.blindness], [1, 2, null])
      for (const watcher of watchers.slice())
        watcher.emit('error', Object.assign(new Error('no space'), { code: 'ENOSPC' }))
      assert.equal(told, 3)
      assert.match(watched.blindness ?? '', /inside are not heard \(ENOSPC\)/)
      watched.refresh()
      assert.deepEqual([told, watchers.length, watched.blindness], [3, 4, null])
    } finally {
      watched.close()
    }
  })

  it('the order of the log and of the messages about devices: what the log tells late of an error is not taken', async () => {
    node = new Node({ devices: [disk('02', 2)] })
    await node.kubelet.start()
    const plugin = await node.start(DISKS)
    node.tell('error', A)
    await node.kubelet.untilHealth(DISK, { [A]: false })
    node.tell('recovered', A)
    node.tell('error', A, `${A} has a PCIe error: Uncorrected (Non-Fatal)`, 'log')
    await node.kubelet.untilHealth(DISK, { [A]: true })
    // Where there is no other word it is taken.
    await plugin.stop()
    let tell: typeof node.tell = () => {}
    await node.start(DISKS, {
      watch: (listener) => {
        tell = (kind, address, what = '', topic = 'log') => listener({ kind, address, what }, topic)
        return { unseen: [], hears: new Set(['log'] as const), close: () => {} }
      },
    })
    await node.kubelet.untilHealth(DISK, { [A]: true })
    tell('error', A, 'an error')
    await node.kubelet.untilHealth(DISK, { [A]: false })
  })

  it('what was lost: errors are judged by a look, and what the kernel gave up stays so', async () => {
    const B = '0000:03:00.0'
    const C = '0000:04:00.0'
    // The third is open, by its device.
    const open = disk('04', 4, { files: { enable: '1\n' } })
    node = new Node({ devices: [disk('02', 2), disk('03', 3), open], processes: false })
    await node.kubelet.start()
    await node.start(DISKS)
    node.tell('error', A)
    node.tell('failed', B)
    node.tell('release-requested', C)
    await node.kubelet.untilHealth(DISK, { [A]: false, [B]: false, [C]: false })
    node.tell('lost', null, 'messages of the log were lost', 'log')
    node.tell('lost', null, 'messages about devices were lost')
    await node.kubelet.untilHealth(DISK, { [A]: true, [B]: false, [C]: false })
  })

  it('that a kubelet has gone while it is asked: the next one is asked then', async () => {
    const root = temporaryDirectory()
    const kubelet = new FakeKubelet(root)
    await kubelet.start()
    const answers = { allocate: () => assert.fail(), prefer: () => assert.fail() }
    const endpoint = new Endpoint(DISK, kubelet.directory, answers, () => {})
    await endpoint.open()
    const first = endpoint.registerWith('the first')
    const second = endpoint.registerWith('the second')
    await Promise.all([first, second])
    assert.equal(kubelet.registrations.length, 2)
    // And where the socket was made anew meanwhile.
    const third = endpoint.registerWith('the third')
    await endpoint.open()
    await endpoint.registerWith('the third')
    await third
    assert.equal(kubelet.registrations.length, 4)
    await endpoint.close()
    kubelet.stop()
  })
})
