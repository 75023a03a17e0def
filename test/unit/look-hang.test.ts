import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { realpathSync, rmSync } from 'node:fs'
import { assess, Host, planAssignment } from 'vfio'
import { type HostTrees, makeHost, removeDirectories } from '../fixtures/host.js'
import { SINGLE } from './assign-hosts.js'
import { ROOT } from './support.js'

const NVME = '0000:01:00.0'
/** Far more than a look may take, and still an end. */
const DEADLINE = 60_000

/** A device whose driver lets it go for ever: the kernel keeps the readers of these files waiting, as a FIFO does. */
function stuckHost(): HostTrees {
  const trees = makeHost(SINGLE)
  const directory = realpathSync(`${trees.sysfs}/bus/pci/devices/${NVME}`)
  for (const name of ['driver_override', 'sriov_numvfs', 'uevent']) {
    rmSync(`${directory}/${name}`, { force: true })
    execFileSync('mkfifo', [`${directory}/${name}`])
  }
  return trees
}

const COMMANDS: Readonly<Record<string, { readonly args: readonly string[]; readonly says: RegExp }>> = {
  list: { args: ['list'], says: /01:00\.0/ },
  show: { args: ['show', NVME], says: /driver_override\s+\(ETIMEDOUT\):\s+the\s+kernel\s+is\s+still\s+busy/ },
  check: { args: ['check', NVME], says: /01:00\.0/ },
  'bind --dry-run': {
    args: ['bind', '--dry-run', NVME],
    says: /driver_override\s+\(ETIMEDOUT\):\s+the\s+kernel\s+is\s+still\s+busy/,
  },
  doctor: { args: ['doctor'], says: /IOMMU/ },
}

describe('a look at a device that the kernel never lets go', function () {
  this.timeout(3 * DEADLINE)
  afterEach(removeDirectories)

  for (const [name, { args, says }] of Object.entries(COMMANDS)) {
    it(`${name} ends, and says what it saw`, () => {
      const { sysfs } = stuckHost()
      const ended = spawnSync(process.execPath, [`${ROOT}/dist/cli/main.js`, ...args, '--sysfs', sysfs], {
        encoding: 'utf8',
        timeout: DEADLINE,
        killSignal: 'SIGKILL',
      })
      assert.equal(ended.signal, null, `${name} hangs`)
      assert.match(ended.stdout + ended.stderr, says)
      assert.doesNotMatch(ended.stderr, /\n {4}at /)
    })
  }

  it('blocks what rests on it, and nothing else', () => {
    const trees = stuckHost()
    const seen = new Host(trees).snapshot()
    const unseen = seen.unseen.map(({ path, code }) => [path.slice(path.lastIndexOf('/') + 1), code])
    assert.deepEqual(unseen, [['driver_override', 'ETIMEDOUT']])
    assert.equal(assess(seen, NVME).verdict, 'blocked')
    assert.ok(planAssignment(seen, [NVME]).blockers.length > 0)
    for (const { address } of seen.devices.filter((device) => device.address !== NVME))
      assert.doesNotMatch(assess(seen, address).reason, /driver_override/)
  })

  it('leaves no process behind', async () => {
    new Host(stuckHost()).snapshot()
    const children = () =>
      execFileSync('ps', ['--ppid', String(process.pid), '-o', 'stat=,comm='], { encoding: 'utf8' })
    // It is ended at once, and taken by a thread a moment later.
    while (/vfio-read/.test(children())) await new Promise(setImmediate)
  })
})
