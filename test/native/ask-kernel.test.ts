import assert from 'node:assert/strict'
import { constants } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Assessment } from 'vfio'
import { makeHost, removeDirectories } from '../fixtures/host.js'
import { bytes, device } from './bytes.js'
import { type FakeAnswer, OPENS, ROOT, runSource } from './fake.js'

const { EBUSY } = constants.errno
const ANNOUNCED = 'vfio: opening 0000:01:00.0 through VFIO to ask the kernel, which resets it\n'

/** The command line as it is, on a host of a fixture tree in place of this one. */
const SOURCE = `
const look = vfio.Host.prototype.look
vfio.Host.prototype.look = (options) => look.call(new vfio.Host(input.trees), options)
// A program given as text, as here, has no path of its own among its arguments.
process.argv = [process.execPath, 'check', ...input.args, '--ask-kernel']
await import(input.main)
`

/** A kernel that lets the device be opened, and answers as told. */
const kernel = ({ viable = true, functionReset = true } = {}): FakeAnswer[] => [
  {
    call: 'groupStatus',
    bytes: bytes()
      .u32(8, viable ? 1 : 0)
      .done(),
  },
  OPENS,
  { call: 'deviceInfo', bytes: device(20, functionReset ? 3 : 2, 9, 5, 0).done() },
  // On a root bus there is nothing that could be reset.
  { call: 'hotResetInfo', returns: -constants.errno.ENODEV },
]

describe('check --ask-kernel', () => {
  after(removeDirectories)

  const check = async (answers: readonly FakeAnswer[], ...args: string[]) => {
    const trees = makeHost({
      devices: [
        { address: '0000:01:00.0', driver: 'vfio-pci', group: 7, resetMethod: 'flr' },
        { address: '0000:02:00.0', driver: 'vfio-pci' },
      ],
    })
    const main = pathToFileURL(join(ROOT, 'dist/cli/main.js')).href
    return runSource(SOURCE, answers, { input: { trees, args, main } })
  }
  const assessment = (stdout: string) => JSON.parse(stdout) as Assessment

  it('prints what the kernel answers, with status 0 when ready', async () => {
    const { code, stdout, stderr } = await check(kernel(), '01:00.0', '--json')
    assert.deepEqual([code, stderr], [0, ANNOUNCED])
    assert.deepEqual(assessment(stdout).kernel, { viable: true, functionReset: true, hotReset: 'ENODEV' })
  })

  it('tells a person whether prediction and kernel agree', async () => {
    const agreed = await check(kernel(), '01:00.0')
    assert.match(
      agreed.stdout,
      /viable: yes; function reset: yes; hot reset: ENODEV\n +prediction and kernel agree\n/,
    )
    const differing = await check(kernel({ functionReset: false }), '01:00.0')
    assert.match(differing.stdout, /function reset: no;[\s\S]*prediction and kernel differ/)
  })

  it('has status 3 where the kernel refuses, and the assessment all the same', async () => {
    for (const [call, says] of [
      ['open:7', /^vfio: the kernel refused: open on \/dev\/vfio\/7 failed with EBUSY: .*\n$/],
      ['openDevice', /^vfio: the kernel refused: VFIO_GROUP_GET_DEVICE_FD of 0000:01:00\.0 .* EBUSY: .*\n$/],
    ] as const) {
      const refusing: FakeAnswer = { call, returns: -EBUSY }
      const { code, stdout, stderr } = await check([refusing], '01:00.0', '--json')
      assert.equal(code, 3)
      assert.ok(stderr.startsWith(ANNOUNCED))
      assert.match(stderr.slice(ANNOUNCED.length), says)
      const { verdict, kernel: answered } = assessment(stdout)
      assert.deepEqual([verdict, answered], ['ready', undefined])
    }
  })

  it('of a device in no group announces no reset, for there is none', async () => {
    const { code, stdout, stderr } = await check([], '02:00.0')
    assert.deepEqual([code, stdout], [2, ''])
    assert.match(stderr, /^vfio: 0000:02:00\.0 is in no IOMMU group, [^\n]*\n$/)
  })
})
