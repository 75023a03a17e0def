import assert from 'node:assert/strict'
import { makeHost, READY_MODULES, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { device } from './bytes.js'
import { type FakeAnswer, OPENS, withFake } from './fake.js'

const LOADED = { state: 'loaded' } as const

const INFO: FakeAnswer = { call: 'deviceInfo', bytes: device(20, 3, 9, 5, 0).done() }

describe('a whole step that is aborted', function () {
  this.timeout(60_000)
  after(removeDirectories)

  const trees = () =>
    makeHost({ devices: [{ address: '0000:01:00.0', driver: 'vfio-pci', group: 7, resetMethod: 'flr' }] })

  const cases = {
    openDevice: { held: 'openDevice', line: 'begin 6 0000:01:00.0' },
    resetDevice: { held: 'reset', line: 'begin 11 0000:01:00.0' },
    'resetDevice, hot': { held: 'hotReset', line: 'begin 13 0000:01:00.0' },
  } as const
  for (const [name, { held, line }] of Object.entries(cases)) {
    for (const answered of [true, false]) {
      const outcome = answered
        ? 'and all of it is closed when the kernel answers'
        : 'and the program ends though the kernel never answers'
      it(`(${name}) rejects at once, ${outcome}`, async () => {
        const opens = held === 'openDevice'
        await withFake(
          [...(opens ? [] : [OPENS]), INFO, { call: held, returns: opens ? 'fd' : 0, when: 'gate' }],
          async ({ vfio, input, log, logged, letGo, failure }) => {
            const seen = new vfio.Host(input.trees).snapshot()
            const controller = new AbortController()
            const { signal } = controller
            const step = failure(
              input.name === 'openDevice'
                ? vfio.openDevice('01:00.0', { seen, signal })
                : vfio.resetDevice(seen, '01:00.0', { signal, hot: input.name.endsWith('hot') }),
            )
            await logged(input.line)
            controller.abort()
            assert.equal((await step).name, 'AbortError')
            const closed = () => log().filter((entry) => entry.startsWith('close '))
            assert.deepEqual(closed(), [])
            if (!input.answered) return
            letGo()
            await logged('close /dev/vfio/vfio')
            assert.deepEqual(closed(), ['close 0000:01:00.0', 'close /dev/vfio/7', 'close /dev/vfio/vfio'])
          },
          { input: { trees: trees(), name, line, answered } },
        )
      })
    }
  }

  for (const iommufd of [false, true]) {
    const named = iommufd ? '/dev/vfio/devices/vfio0' : '/dev/vfio/1'
    it(`resets through what the plan has named: ${named}`, async () => {
      const device = { address: '0000:01:00.0', driver: 'vfio-pci', group: 1, vfioDevice: 'vfio0' }
      const { vfio_iommu_type1: type1, ...rest } = READY_MODULES
      const modules = { ...rest, iommufd: LOADED, ...(!iommufd && type1 && { vfio_iommu_type1: type1 }) }
      const described = { ...device, resetMethod: 'flr', files: { enable: '0\n' } }
      await withFake(
        [],
        async ({ vfio, input, log }) => {
          const seen = new vfio.Host(input.trees).snapshot()
          const plan = vfio.planAssignment(seen, ['01:00.0'], { force: ['other'] })
          assert.deepEqual(plan.blockers, [])
          const [step] = plan.steps
          assert.equal(step?.kind, 'reset')
          assert.equal(step.path.replace(`${input.trees.dev}`, '/dev'), input.named)
          await vfio.assign(plan, { journal: input.journal })
          const opened = log().filter((line) => line.startsWith('close /dev/vfio/') && /\d$/.test(line))
          assert.deepEqual(opened, [`close ${input.named}`])
        },
        {
          input: { trees: makeHost({ modules, devices: [described] }), named, journal: temporaryDirectory() },
          machine: { linux: '7.3' },
        },
      )
    })
  }

  it('after its work is done waits no longer for the close', async () => {
    await withFake(
      [OPENS, INFO, { call: 'hotResetInfo', returns: -19 }, { call: 'close', when: 'gate' }],
      async ({ vfio, input, logged, log }) => {
        const seen = new vfio.Host(input.trees).snapshot()
        const controller = new AbortController()
        const step = vfio.askKernel(seen, '01:00.0', { signal: controller.signal })
        await logged('closing 0000:01:00.0')
        controller.abort()
        assert.equal((await step).hotReset, 'ENODEV')
        assert(!log().some((entry) => entry.startsWith('close ')))
      },
      { input: { trees: trees() } },
    )
  })
})
