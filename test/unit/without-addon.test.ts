import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type HostTrees, makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { SINGLE, THREE } from './assign-hosts.js'
import { ROOT } from './support.js'

const NVME = '0000:01:00.0'
const NIC = '0000:02:00.0'
/** Far more than any of these takes, and still an end. */
const DEADLINE = 120_000

describe('without the addon', function () {
  this.timeout(2 * DEADLINE)
  let bare = ''
  before(() => {
    bare = temporaryDirectory()
    for (const name of ['dist', 'package.json'])
      cpSync(join(ROOT, name), join(bare, name), { recursive: true })
    symlinkSync(join(ROOT, 'node_modules'), join(bare, 'node_modules'))
  })
  after(removeDirectories)

  /** What Node is told before the program. */
  type Before = readonly string[]
  const on = (platform: string): Before => [
    '--import',
    `data:text/javascript,Object.defineProperty(process,'platform',{value:'${platform}'})`,
  ]

  function vfio(root: string, args: readonly string[], before: Before = [], env: NodeJS.ProcessEnv = {}) {
    const { status, stdout, stderr, signal } = spawnSync(
      process.execPath,
      [...before, join(root, 'dist/cli/main.js'), ...args],
      {
        encoding: 'utf8',
        env: { ...process.env, VFIO_ADDON: '', VFIO_DEBUG: undefined, ...env },
        timeout: DEADLINE,
        killSignal: 'SIGKILL',
      },
    )
    assert.equal(signal, null, `vfio ${args.join(' ')} hangs`)
    return { status, stdout, stderr }
  }

  /** Everything that only looks. */
  const LOOKS: readonly (readonly string[])[] = [
    ['list'],
    ['list', '--json'],
    ['show', NVME],
    ['show', NVME, '--json'],
    ['check', NVME],
    ['check', 'group:20'],
    ['doctor'],
    ['bind', NVME, '--dry-run'],
    ['persist', NVME],
    ...['qemu', 'libvirt', 'cloud-hypervisor'].map((format) => ['export', format, NVME]),
  ]

  const HOST = { devices: [...(SINGLE.devices ?? []), ...(THREE.devices ?? [])] }

  it('all that looks says of a tree what it says with it, on any platform', () => {
    const { sysfs } = makeHost(HOST)
    for (const args of LOOKS) {
      const whole = [...args, '--sysfs', sysfs]
      const expected = vfio(ROOT, whole)
      for (const platform of ['linux', 'darwin', 'win32'])
        assert.deepEqual(vfio(bare, whole, on(platform)), expected, `${args.join(' ')} on ${platform}`)
    }
  })

  it('the running host is looked at, and doctor says what cannot be done', () => {
    const quick = JSON.parse(vfio(ROOT, ['list', '--json']).stdout)
    const plain = JSON.parse(vfio(bare, ['list', '--json']).stdout)
    const { addon, ...host } = plain.host
    assert.deepEqual({ ...plain, host }, quick)
    assert.match(addon.reason, /there is none for this machine/)
    const { stdout } = vfio(bare, ['doctor', '--json'])
    const { checks } = JSON.parse(stdout) as { checks: { name: string; status: string; cure: string }[] }
    const check = checks.find(({ name }) => name === 'addon')
    assert.equal(check?.status, 'warn')
    assert.match(check.cure, /npm install --force vfio/)
    assert.doesNotMatch(vfio(ROOT, ['doctor']).stdout, /addon/)
    // Of a tree it says nothing of this program.
    assert.doesNotMatch(vfio(bare, ['doctor', '--sysfs', makeHost(SINGLE).sysfs]).stdout, /addon/)
  })

  it('what takes it says what was tried, and what to do', () => {
    const { sysfs } = makeHost(SINGLE)
    const program = `import { assign, Host, planAssignment } from 'vfio'
      const seen = new Host({ sysfs: ${JSON.stringify(sysfs)} }).snapshot()
      await assign(planAssignment(seen, ['${NVME}'])).catch(({ code, message }) => console.log(code, message))`
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
      cwd: bare,
      encoding: 'utf8',
      env: { ...process.env, VFIO_ADDON: '' },
    })
    assert.match(stdout, /^ERR_VFIO_ADDON The native addon of the package "vfio" could not be loaded\.\n/)
    assert.match(stdout, /What to do:/)
  })

  it('one that VFIO_ADDON names has to load, also for a look', () => {
    const { sysfs } = makeHost(SINGLE)
    const bad = join(temporaryDirectory(), 'vfio.node')
    writeFileSync(bad, 'this is no machine code')
    for (const name of ['/nowhere/vfio.node', './vfio.node', bad]) {
      const { status, stdout, stderr } = vfio(ROOT, ['list', '--sysfs', sysfs], [], { VFIO_ADDON: name })
      assert.deepEqual([status, stdout], [1, ''])
      assert.match(stderr, /^vfio: The native addon of the package "vfio" could not be loaded\./)
    }
  })

  it('and without Linux there is no host to look at but a tree', () => {
    for (const args of [['list'], ['doctor'], ['show', NVME]]) {
      const { status, stdout, stderr } = vfio(bare, args, on('darwin'))
      assert.deepEqual([status, stdout], [1, ''])
      assert.match(stderr, /^vfio: VFIO is a part of Linux, and this is darwin: [^\n]+\n$/)
    }
  })

  it('a file that the kernel never answers for keeps nobody waiting', () => {
    const trees: HostTrees = makeHost(SINGLE)
    const directory = realpathSync(`${trees.sysfs}/bus/pci/devices/${NVME}`)
    for (const name of ['driver_override', 'sriov_numvfs', 'uevent']) {
      rmSync(`${directory}/${name}`, { force: true })
      execFileSync('mkfifo', [`${directory}/${name}`])
    }
    for (const args of [
      ['show', NVME],
      ['bind', '--dry-run', NVME],
    ]) {
      const { stdout, stderr } = vfio(bare, [...args, '--sysfs', trees.sysfs])
      assert.match(stdout + stderr, /driver_override\s+\(ETIMEDOUT\):\s+the\s+kernel\s+is\s+still\s+busy/)
    }
    assert.match(vfio(bare, ['list', '--sysfs', trees.sysfs]).stdout, /01:00\.0/)
  })

  it('a program that may start no other says that it could not look', () => {
    const { sysfs } = makeHost(SINGLE)
    const fifo = join(realpathSync(`${sysfs}/bus/pci/devices/${NVME}`), 'driver_override')
    rmSync(fifo)
    execFileSync('mkfifo', [fifo])
    // The flag had another name before it was final.
    const flag = process.allowedNodeEnvironmentFlags.has('--permission')
      ? '--permission'
      : '--experimental-permission'
    const { stdout } = vfio(bare, ['show', NVME, '--sysfs', sysfs], [flag, '--allow-fs-read=*'])
    assert.match(stdout, /driver_override\s+\(EACCES\)/)
    assert.match(stdout, /blocked/)
  })

  /** A tree with three files that take a process to look, and a program in place of the runtime, which counts its runs. */
  function replaced(script: (itself: Before, sysfs: string) => string) {
    const { sysfs } = makeHost(THREE)
    for (const fn of [0, 1, 2]) {
      const fifo = join(realpathSync(`${sysfs}/bus/pci/devices/0000:02:00.${fn}`), 'driver_override')
      rmSync(fifo)
      execFileSync('mkfifo', [fifo])
    }
    const directory = temporaryDirectory()
    const [program, count] = [join(directory, 'program'), join(directory, 'count')]
    const itself = [
      '--import',
      `data:text/javascript,Object.defineProperty(process,'execPath',{value:'${program}'})`,
    ]
    // A chain that does not end by itself ends here.
    const guard = `echo >>${count}; [ $(wc -l <${count}) -lt 9 ] || exit 1`
    writeFileSync(program, `#!/bin/sh\n${guard}\n${script(itself, sysfs)}\n`, { mode: 0o755 })
    const { stdout } = vfio(bare, ['show', NIC, '--sysfs', sysfs], itself)
    assert.match(stdout, /blocked/)
    return { stdout, runs: readFileSync(count, 'utf8').length }
  }
  const quoted = (words: readonly string[]) => words.map((word) => `"${word}"`).join(' ')

  it('a program that is its own runtime is started once, and looks no further', () => {
    const main = join(bare, 'dist/cli/main.js')
    const { stdout, runs } = replaced(
      (itself, sysfs) => `exec ${quoted([process.execPath, ...itself, main, 'show', NIC, '--sysfs', sysfs])}`,
    )
    assert.match(stdout, /driver_override\s+\(EACCES\)/)
    assert.equal(runs, 1)
  })

  it('what another program prints answers nothing', () => {
    const answer = Buffer.from('(null)\n').toString('base64')
    const { stdout } = replaced(() => `for line in 1 2 3 4; do echo +${answer}; done`)
    assert.match(stdout, /driver_override\s+\(EACCES\)/)
  })

  it('a runtime that does not start to look is not started again', () => {
    const { runs } = replaced(
      ([flag = '', module = '']) =>
        `case "$2" in *child_process*) exec ${quoted([process.execPath, flag, module])} "$@";; esac; exit 1`,
    )
    assert.equal(runs, 2)
  })
})
