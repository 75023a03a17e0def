import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { assign, Host, rescanDevice, resetByMethod, VfioError, VfioSystemError } from 'vfio'
import { type HostDescription, removeDirectories } from '../fixtures/host.js'
import { journalOf, planOn, SINGLE, using } from '../unit/assign-hosts.js'
import { makeKernelHost, SimulatedKernel } from '../unit/assign-kernel.js'
import { ROOT } from '../unit/support.js'

const ADDRESS = '0000:01:00.0'

/** Resets as the kernel does (`drivers/pci/pci.c: reset_method_store`): by the methods that stand in the file then. */
class ResettingKernel extends SimulatedKernel {
  readonly resets: string[] = []
  failing = false
  /** What the file cannot take any more. */
  stuck: string | null = null
  /** A method that fitted the device only when it was added. */
  stale: string | null = null
  onReset = () => {}

  override async write(path: string, text: string): Promise<void> {
    const file = basename(path)
    if (file !== 'reset_method' && file !== 'reset') return super.write(path, text)
    await new Promise<void>((resolve) => setImmediate(resolve))
    const failed = (errno: number) => new VfioSystemError({ errno, syscall: 'write', request: file, path })
    if (file === 'reset_method') {
      if (this.stuck === text.trim()) throw failed(5)
      if (this.stale !== null && text.split(/\s/).includes(this.stale)) throw failed(22)
      writeFileSync(path, text)
      return
    }
    this.resets.push(readFileSync(path.replace(/reset$/, 'reset_method'), 'utf8').trim())
    this.onReset()
    if (this.failing) throw failed(25)
  }
}

function prepare(host: HostDescription = SINGLE) {
  const trees = makeKernelHost(host)
  const kernel = new ResettingKernel(trees)
  const seen = new Host(trees).snapshot()
  const file = `${trees.sysfs}/bus/pci/devices/${ADDRESS}/reset_method`
  return {
    trees,
    kernel,
    seen,
    methods: () => readFileSync(file, 'utf8').trim(),
    options: using(trees, kernel),
  }
}

const isCode = (code: string) => (error: unknown) => error instanceof VfioError && error.code === code
const [PORT, DISK] = SINGLE.devices ?? []
const but = (more: object): HostDescription => ({
  devices: [PORT ?? { address: '' }, { ...(DISK ?? { address: '' }), ...more }],
})

/** Enabled, as VFIO does it when a device is opened, by a process that is not in sight. */
const OPEN: HostDescription = {
  ...but({ driver: 'vfio-pci', files: { enable: '1\n' } }),
  processes: false,
}

describe('reset --method', () => {
  after(removeDirectories)

  for (const driver of ['nvme', 'vfio-pci', undefined]) {
    for (const method of ['flr', 'bus']) {
      it(`resets by ${method} what is bound to ${driver ?? 'nothing'}, and puts the kernel's methods back`, async () => {
        const { driver: _, ...bare } = DISK ?? { address: '' }
        const host: HostDescription = { devices: [PORT ?? bare, { ...bare, ...(driver && { driver }) }] }
        const { kernel, seen, methods, options } = prepare(host)
        const report = await resetByMethod(seen, '01:00.0', method, options)
        assert.deepEqual([report.address, report.method, report.methods], [ADDRESS, method, ['flr', 'bus']])
        assert.deepEqual([kernel.resets, methods()], [[method], 'flr bus'])
      })
    }
  }

  it('puts them back where the reset fails', async () => {
    const { kernel, seen, methods, options } = prepare()
    kernel.failing = true
    await assert.rejects(resetByMethod(seen, ADDRESS, 'bus', options), isCode('ENOTTY'))
    assert.equal(methods(), 'flr bus')
  })

  it('and where it is told to stop meanwhile, or before', async () => {
    const { kernel, seen, methods, options } = prepare()
    const stop = new AbortController()
    kernel.onReset = () => stop.abort()
    await resetByMethod(seen, ADDRESS, 'bus', { ...options, signal: stop.signal })
    assert.equal(methods(), 'flr bus')
    kernel.resets.length = 0
    await assert.rejects(resetByMethod(seen, ADDRESS, 'bus', { ...options, signal: stop.signal }))
    assert.deepEqual([kernel.resets, methods()], [[], 'flr bus'])
  })

  it('puts back those that fit, where the kernel does not take one of its own any more', async () => {
    const { kernel, seen, methods, options } = prepare()
    kernel.stale = 'bus'
    const report = await resetByMethod(seen, ADDRESS, 'flr', options)
    assert.deepEqual([report.methods, methods()], [['flr'], 'flr'])
    await assert.rejects(resetByMethod(seen, ADDRESS, 'bus', options), isCode('EINVAL'))
    assert.equal(methods(), 'flr')
  })

  it('says what to write where they cannot be put back', async () => {
    const { kernel, seen, options } = prepare()
    kernel.stuck = 'flr bus'
    await assert.rejects(
      resetByMethod(seen, ADDRESS, 'bus', options),
      (error) =>
        isCode('ERR_VFIO_NOT_RESTORED')(error) && /write "flr bus" to/.test((error as Error).message),
    )
  })

  const REFUSED: readonly [what: string, host: HostDescription, method: string, code: string][] = [
    ['by a method that the kernel has not for it', SINGLE, 'acpi', 'ERR_VFIO_NO_RESET'],
    ['what has none', but({ resetMethod: undefined }), 'flr', 'ERR_VFIO_NO_RESET'],
    ['before 5.15, which tells none', { ...but({}), kernel: '5.10.0' }, 'flr', 'ERR_VFIO_NO_RESET'],
    ['what is open in VFIO', OPEN, 'flr', 'ERR_VFIO_IN_USE'],
    ['a function whose virtual functions are in use', but({ totalVfs: 2 }), 'none', 'ERR_VFIO_NO_RESET'],
  ]
  for (const [what, host, method, code] of REFUSED) {
    it(`does not reset ${what}`, async () => {
      const { kernel, seen, options } = prepare(host)
      await assert.rejects(
        resetByMethod(seen, ADDRESS, method, { ...options, force: ['other'] }),
        isCode(code),
      )
      assert.deepEqual(kernel.resets, [])
    })
  }

  it('does not reset what the host uses, unless that is forced', async () => {
    const vf = { address: '0000:01:00.1', physfn: ADDRESS, group: 11 }
    const host: HostDescription = { devices: [...(but({ totalVfs: 2 }).devices ?? []), vf] }
    const { kernel, seen, options } = prepare(host)
    await assert.rejects(
      resetByMethod(seen, ADDRESS, 'flr', options),
      (error) => isCode('ERR_VFIO_IN_USE')(error) && /--force other/.test((error as Error).message),
    )
    assert.deepEqual(kernel.resets, [])
    await resetByMethod(seen, ADDRESS, 'flr', { ...options, force: ['other'] })
    assert.deepEqual(kernel.resets, ['flr'])
  })

  it('does not reset what was opened since the look', async () => {
    const { kernel, seen, options } = prepare(but({ driver: 'vfio-pci', files: { enable: '0\n' } }))
    kernel.open.add(10)
    await assert.rejects(resetByMethod(seen, ADDRESS, 'flr', options), isCode('ERR_VFIO_IN_USE'))
    assert.deepEqual(kernel.resets, [])
  })
})

describe('rescan', () => {
  after(removeDirectories)

  it('finds a device anew, which the kernel gives to its driver', async () => {
    const { kernel, seen, options } = prepare()
    const report = await rescanDevice(seen, '01:00.0', options)
    assert.deepEqual(report, { address: ADDRESS, driver: 'nvme', former: 'nvme' })
    assert.deepEqual(
      kernel.calls.map(({ path }) => basename(path)),
      ['remove', 'rescan'],
    )
  })

  it('gives an override and its driver back', async () => {
    const { trees, seen, options } = prepare(but({ driver: 'vfio-pci', driverOverride: 'vfio-pci' }))
    assert.equal((await rescanDevice(seen, ADDRESS, options)).driver, 'vfio-pci')
    assert.equal(new Host(trees).snapshot().device(ADDRESS).driverOverride, 'vfio-pci')
  })

  it('says where it does not come back', async () => {
    const { trees, seen } = prepare()
    class Losing extends ResettingKernel {
      override async write(path: string, text: string): Promise<void> {
        if (basename(path) !== 'rescan') await super.write(path, text)
      }
    }
    const kernel = new Losing(trees)
    await assert.rejects(rescanDevice(seen, ADDRESS, using(trees, kernel)), isCode('ERR_VFIO_NOT_RESTORED'))
  })

  const REFUSED: readonly [what: string, address: string, host: HostDescription, says: RegExp][] = [
    ['a bridge', '0000:00:01.0', SINGLE, /is a bridge/],
    [
      'a virtual function',
      '0000:01:00.1',
      {
        devices: [
          ...(but({ totalVfs: 2 }).devices ?? []),
          { address: '0000:01:00.1', physfn: ADDRESS, group: 11 },
        ],
      },
      /virtual function, which no rescan finds/,
    ],
    [
      'what has virtual functions',
      ADDRESS,
      {
        devices: [
          ...(but({ totalVfs: 2 }).devices ?? []),
          { address: '0000:01:00.1', physfn: ADDRESS, group: 11 },
        ],
      },
      /virtual functions of it.*--force other/,
    ],
    ['what is open in VFIO', ADDRESS, OPEN, /close it there/],
  ]
  for (const [what, address, host, says] of REFUSED) {
    it(`leaves ${what} alone`, async () => {
      const { kernel, seen, options } = prepare(host)
      await assert.rejects(rescanDevice(seen, address, options), says)
      assert.deepEqual(kernel.calls, [])
    })
  }

  it('leaves what is open in VFIO alone', async () => {
    const { kernel, seen, options } = prepare(but({ driver: 'vfio-pci' }))
    kernel.open.add(10)
    await assert.rejects(rescanDevice(seen, ADDRESS, options), isCode('ERR_VFIO_IN_USE'))
    assert.deepEqual(kernel.calls, [])
  })

  it('leaves what is assigned alone, since its record would not be true any more', async () => {
    const { trees, kernel, options } = prepare()
    const assignment = await assign(planOn(trees, [ADDRESS], { reset: 'none' }), options)
    const seen = new Host(trees).snapshot()
    await assert.rejects(
      rescanDevice(seen, ADDRESS, { ...options, journal: journalOf(trees) }),
      /is assigned by .*release 0000:01:00\.0 --rescan/,
    )
    assert.equal(
      kernel.calls.some(({ path }) => path.endsWith('/remove')),
      false,
    )
    await assignment.release()
  })
})

describe('reset --method and rescan on the command line', function () {
  this.timeout(60_000)
  const vfio = (...args: string[]) =>
    spawnSync(process.execPath, [join(ROOT, 'dist/cli/main.js'), ...args], { encoding: 'utf8' })

  const WRONG: readonly [args: readonly string[], says: RegExp][] = [
    [['reset', '00:00.0', '--hot', '--method', 'flr'], /cannot be used with/],
    [['reset', '00:00.0', '--force', 'mount'], /go with --method/],
    [['reset', 'fe:1f.7', '--method', 'flr'], /no PCI device/],
    [['reset', '00:00.8', '--method', 'flr'], /not a PCI address/],
    [['rescan', 'fe:1f.7'], /no PCI device/],
    [['rescan', 'fe:1f.7', '--force', 'all'], /no PCI device|--force takes one of/],
    [['persist', '00:00.0', '--force', 'all'], /--force takes one of|no PCI device/],
    [['persist', '--check', '--remove'], /give it alone/],
    [['grant', '00:00.0', '--user', 'root', '--containers', '2'], /give that too|no PCI device/],
    [['grant', '00:00.0', '--user', 'root', '--containers', 'x'], /expected a number/],
    [['export', 'libvirt', '00:00.0', '--memory', '1G'], /--memory means nothing to libvirt|no PCI device/],
  ]
  for (const [args, says] of WRONG) {
    it(`${args.join(' ')} is one line on standard error, and status 2`, () => {
      const { status, stdout, stderr } = vfio(...args)
      assert.deepEqual([status, stdout, stderr.split('\n').length], [2, '', 2], stderr)
      assert.match(stderr, says)
    })
  }
})
