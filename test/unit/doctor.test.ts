import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync } from 'node:fs'
import { join } from 'node:path'
import { type Check, type Diagnosis, diagnose } from 'vfio'
import {
  type HostDescription,
  type ModuleDescription,
  makeHost,
  READY_MODULES,
  removeDirectories,
} from '../fixtures/host.js'
import { present, ROOT, see } from './support.js'

const READY: HostDescription = { devices: [{ address: '0000:07:00.0', group: 5, driver: 'nvme' }] }

/** One check of a host that is ready but for what is described. */
function checkOf(name: string, host: HostDescription): Check & { ready: boolean } {
  const { ready, checks } = diagnose(see({ ...READY, ...host }))
  assert.equal(ready, !checks.some(({ status }) => status === 'fail'))
  const found = present(
    checks.find((check) => check.name === name),
    `a check of ${name}`,
  )
  // What is well needs no cure, and what is not has one.
  assert.equal(found.cure === null, found.status === 'ok')
  return { ...found, ready }
}

const statusOf = (name: string, host: HostDescription) => checkOf(name, host).status

describe('diagnose', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  it('finds a ready host ready, a check a line', () => {
    const { ready, checks } = diagnose(see(READY))
    assert.equal(ready, true)
    assert.deepEqual(
      checks.map(({ name }) => name),
      [
        'kernel',
        'iommu',
        'groups',
        'interrupt remapping',
        'module vfio',
        'module vfio_iommu_type1',
        'module vfio_pci',
        'device node',
        'group nodes',
        'locked memory',
      ],
    )
  })

  it('tells the rule of the kernel', () => {
    assert.match(checkOf('kernel', { kernel: '5.10.0' }).detail, /5\.10\.0.*list/)
    assert.match(checkOf('kernel', { kernel: '6.12.0' }).detail, /6\.12\.0.*DMA ownership/)
    assert.match(checkOf('kernel', { kernel: null }).detail, /unknown/)
  })

  it('names the IOMMU', () => {
    assert.match(checkOf('iommu', { iommu: 'amd' }).detail, /amd-iommu \(ivhd0\)/)
    assert.match(checkOf('iommu', { iommu: 'intel' }).detail, /dmar0.*dmar1/)
    assert.equal(statusOf('iommu', { iommu: 'none' }), 'ok')
  })

  const without: HostDescription = { iommu: 'none', devices: [{ address: '0000:07:00.0' }] }

  it('tells a kernel parameter from a firmware setting where there is no IOMMU', () => {
    const cure = (commandLine: string) => {
      const check = checkOf('iommu', { ...without, commandLine })
      assert.deepEqual([check.status, check.ready], ['fail', false])
      return check.cure ?? ''
    }
    assert.match(cure('quiet'), /firmware.*intel_iommu=on/)
    assert.match(cure('quiet intel_iommu=off'), /remove.*intel_iommu=off/)
    assert.match(cure('iommu=off quiet'), /remove.* iommu=off/)
    assert.match(cure('quiet iommu=pt'), /intel_iommu=on/)
    assert.doesNotMatch(cure('intel_iommu=on quiet'), /intel_iommu=on/)
    assert.match(cure('amd_iommu=on'), /firmware/)
  })

  it('says that an IOMMU that was asked for is not there', () => {
    assert.match(
      checkOf('iommu', { ...without, commandLine: 'intel_iommu=on,sm_on' }).detail,
      /intel_iommu=on,sm_on/,
    )
  })

  it('wants groups', () => {
    assert.match(checkOf('groups', {}).detail, /1 .*1 of 1/)
    assert.equal(statusOf('groups', without), 'fail')
  })

  it('wants interrupts remapped, or the risk accepted', () => {
    const name = 'interrupt remapping'
    assert.equal(statusOf(name, {}), 'ok')
    assert.equal(statusOf(name, { interruptRemapping: null }), 'ok')
    const off = checkOf(name, { interruptRemapping: false })
    assert.deepEqual([off.status, off.ready], ['fail', false])
    assert.match(off.cure ?? '', /allow_unsafe_interrupts=1/)
    const accepted = checkOf(name, {
      interruptRemapping: false,
      modules: {
        ...READY_MODULES,
        vfio_iommu_type1: { state: 'loaded', parameters: { allow_unsafe_interrupts: 'Y' } },
      },
    })
    assert.deepEqual([accepted.status, accepted.ready], ['warn', true])
  })

  for (const module of ['vfio', 'vfio_iommu_type1', 'vfio_pci']) {
    it(`wants the module ${module}, loaded or built in`, () => {
      const status = (state: ModuleDescription['state'] | null) => {
        const { [module]: _, ...rest } = READY_MODULES
        const modules = state === null ? rest : { ...rest, [module]: { state, parameters: { some: '1' } } }
        const nodes = { 'vfio/vfio': 0o666 }
        return checkOf(`module ${module}`, { modules, nodes })
      }
      assert.deepEqual([status('loaded').status, status('loaded').detail], ['ok', 'loaded'])
      assert.deepEqual([status('builtin').status, status('builtin').detail], ['ok', 'built in'])
      const loadable = status('loadable')
      assert.deepEqual([loadable.status, loadable.ready], ['fail', false])
      assert.match(loadable.cure ?? '', /modprobe/)
      const missing = status(null)
      assert.deepEqual([missing.status, missing.ready], ['fail', false])
      assert.match(missing.cure ?? '', new RegExp(`CONFIG_${module.toUpperCase()}`))
    })
  }

  it('wants a device node', () => {
    assert.match(checkOf('device node', {}).detail, /dev\/vfio\/vfio can be opened/)
    assert.match(checkOf('device node', { nodes: { iommu: 0o660 } }).detail, /dev\/iommu can be opened/)
    const { status, cure } = checkOf('device node', { nodes: {} })
    assert.equal(status, 'fail')
    assert.match(cure ?? '', /modprobe vfio-pci/)
  })

  it('wants permissions', () => {
    const trees = makeHost({ ...READY, nodes: { 'vfio/vfio': 0o000, 'vfio/5': 0o000 } })
    chmodSync(join(trees.dev, '..'), 0o755)
    // Permission bits do not bind root.
    const user = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {}
    const script = `import { diagnose, Host } from 'vfio'
      console.log(JSON.stringify(diagnose(new Host(JSON.parse(process.argv[1])).snapshot())))`
    const { stdout, stderr } = spawnSync(
      process.execPath,
      ['--input-type=module', '-e', script, JSON.stringify(trees)],
      { cwd: ROOT, encoding: 'utf8', ...user },
    )
    assert.equal(stderr, '')
    const { ready, checks }: Diagnosis = JSON.parse(stdout)
    assert.equal(ready, false)
    const cure = (name: string) => checks.find((check) => check.name === name)?.cure ?? ''
    assert.match(cure('device node'), /chmod 0666 .*\/dev\/vfio\/vfio/)
    assert.match(cure('group nodes'), /: vfio grant 0000:07:00\.0 --user "\$USER"$/)
  })

  it('counts the group nodes', () => {
    assert.match(checkOf('group nodes', {}).detail, /no device is bound/)
    const nodes = { 'vfio/vfio': 0o666, 'vfio/5': 0o666, 'vfio/6': 0o666 }
    assert.match(checkOf('group nodes', { nodes }).detail, /2 can be opened/)
  })

  it('warns of little locked memory, and is ready all the same', () => {
    const name = 'locked memory'
    const little = checkOf(name, { memlock: ['8388608', '8388608'] })
    assert.deepEqual([little.status, little.ready], ['warn', true])
    assert.match(little.detail, /^8 MiB/)
    assert.equal(statusOf(name, { memlock: ['67108864', 'unlimited'] }), 'ok')
    assert.equal(statusOf(name, { memlock: ['67108863', 'unlimited'] }), 'warn')
    assert.equal(checkOf(name, { memlock: ['unlimited', 'unlimited'] }).detail, 'no limit')
    assert.equal(statusOf(name, { memlock: null }), 'ok')
  })
})
