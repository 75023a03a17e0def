import assert from 'node:assert/strict'
import type { VfioContainer, VfioDevice, VfioGroup } from 'vfio'
import { withFake } from './fake.js'

const SEED = 20_261_125
const RUNS = 120
const DEADLINE_MS = 200_000

describe('what containers, groups and devices say of themselves', function () {
  this.timeout(DEADLINE_MS + 10_000)

  for (const [linux, container] of [
    ['6.12', 'type1'],
    ['5.10', 'type1'],
    ['6.12', 'iommufd'],
    ['7.3', 'iommufd'],
  ] as const) {
    it(`is what the kernel has after every call, whatever fails, on Linux ${linux} by ${container} (seed ${SEED}, ${RUNS} sequences)`, async () => {
      const { stdout } = await withFake(
        [],
        async ({ input, state, failNext, failNoMore, vfio }) => {
          const { default: fc } = await import('fast-check')
          process.removeAllListeners('warning')
          const which = fc.nat(1)
          const place = fc.nat(7).map((page) => 0x100000 + 0x1000 * page)
          const pages = fc.integer({ min: 1, max: 3 }).map((count) => 0x1000 * count)
          const call = fc.oneof(
            {
              weight: 3,
              arbitrary: fc.record({ do: fc.constant('setContainer' as const), which, container: which }),
            },
            { weight: 2, arbitrary: fc.record({ do: fc.constant('unsetContainer' as const), which }) },
            { weight: 3, arbitrary: fc.record({ do: fc.constant('setIommu' as const), which }) },
            { weight: 3, arbitrary: fc.record({ do: fc.constant('openDevice' as const), which }) },
            { weight: 2, arbitrary: fc.record({ do: fc.constant('closeDevice' as const), which }) },
            {
              weight: 1,
              arbitrary: fc.record({ do: fc.constant('closeGroup' as const), which, now: fc.boolean() }),
            },
            {
              weight: 1,
              arbitrary: fc.record({ do: fc.constant('closeContainer' as const), which, now: fc.boolean() }),
            },
            {
              weight: 8,
              arbitrary: fc.record({
                do: fc.constant('map' as const),
                which,
                iova: fc.option(place),
                size: pages,
              }),
            },
            {
              weight: 4,
              arbitrary: fc.record({ do: fc.constant('unmap' as const), which, iova: place, size: pages }),
            },
            { weight: 2, arbitrary: fc.record({ do: fc.constant('unmapFirst' as const), which }) },
            { weight: 1, arbitrary: fc.record({ do: fc.constant('unmapAll' as const), which }) },
          )
          const failure = fc.record({
            call: fc.constantFrom(
              '*',
              '*',
              'setContainer',
              'unsetContainer',
              'setIommu',
              'openDevice',
              'mapDma',
              'unmapDma',
              'iommuInfo' as const,
            ),
            errno: fc.constantFrom(5, 12, 16, 22),
            skip: fc.nat(2),
          })
          const step = fc.record({ call, failure: fc.option(failure, { freq: 2 }) })

          let calls = 0
          let failed = 0
          let mapped = 0
          const property = fc.asyncProperty(
            fc.array(step, { minLength: 5, maxLength: 40, size: 'max' }),
            async (steps) => {
              type Both<T> = [T, T]
              const containers: Both<VfioContainer> = [vfio.VfioContainer.open(), vfio.VfioContainer.open()]
              const groups: Both<VfioGroup> = [vfio.VfioGroup.open(1), vfio.VfioGroup.open(2)]
              const devices: Both<VfioDevice[]> = [[], []]
              const buffer = vfio.DmaBuffer.allocate(0x4000)
              // In the beginning all is as most calls want it.
              for (const at of [0, 1] as const) {
                groups[at].setContainer(containers[at])
                containers[at].setIommu('type1v2')
              }

              const check = (after: string) => {
                const { model } = state()
                const open = <T extends { open: number }>(all: T[]) => all.filter(({ open }) => open)
                let spans = 0
                // The model has the newest first.
                const inKernel = open(model.containers).reverse()
                const alive = containers.filter(({ closed }) => !closed)
                assert.equal(inKernel.length, alive.length, `containers after ${after}`)
                for (const [at, container] of alive.entries()) {
                  const said = container.dma.mappings.map(({ iova, size }) => [
                    `0x${iova.toString(16)}`,
                    size,
                  ])
                  assert.deepEqual(said, inKernel[at]?.mappings, `mappings after ${after}`)
                  spans += said.length
                }
                mapped += spans
                assert.equal(buffer.mapped, spans > 0, `buffer after ${after}`)
                // None is in a container that nobody has.
                const users = model.containers.filter(({ open }) => !open)
                assert.deepEqual(users, [], `closed containers after ${after}`)
                for (const [at, group] of groups.entries()) {
                  const found = model.groups.find(({ name, open }) => open && name === String(at + 1))
                  assert.equal(found === undefined, group.closed, `group after ${after}`)
                  if (found)
                    assert.equal(
                      group.container !== null,
                      found.inContainer === 1,
                      `container of a group after ${after}`,
                    )
                }
                assert.equal(
                  open(model.devices).length,
                  devices.flat().filter(({ closed }) => !closed).length,
                  `devices after ${after}`,
                )
              }

              const perform = async (call: (typeof steps)[number]['call']) => {
                const container = containers[call.which] as (typeof containers)[0]
                const group = groups[call.which] as (typeof groups)[0]
                const opened = devices[call.which] as (typeof devices)[0]
                const close = async (object: typeof container | typeof group, now: boolean) =>
                  now ? object[Symbol.dispose]() : await object.close()
                switch (call.do) {
                  case 'setContainer':
                    return group.setContainer(containers[call.container] as typeof container)
                  case 'unsetContainer':
                    return group.unsetContainer()
                  case 'setIommu':
                    return container.setIommu('type1v2')
                  case 'openDevice':
                    opened.push(await group.openDevice(`0000:0${call.which + 1}:00.${opened.length % 8}`))
                    return
                  case 'closeDevice':
                    return opened.pop()?.close()
                  case 'closeGroup':
                    return close(group, call.now)
                  case 'closeContainer':
                    return close(container, call.now)
                  case 'map': {
                    const { iova, size } = call
                    await container.dma.map(buffer, { length: size, ...(iova !== null && { iova }) })
                    return
                  }
                  case 'unmap':
                    await container.dma.unmap(call.iova, call.size)
                    return
                  case 'unmapFirst': {
                    const [first] = container.dma.mappings
                    if (first) await container.dma.unmap(first.iova, first.size)
                    return
                  }
                  case 'unmapAll':
                    await container.dma.unmapAll()
                }
              }

              check('the beginning')
              for (const { call, failure } of steps) {
                if (failure) failNext(failure.call, failure.errno, failure.skip)
                const told = JSON.stringify({ call, failure })
                calls++
                try {
                  await perform(call)
                } catch (error) {
                  failed++
                  assert(error instanceof vfio.VfioError, `${told}: ${String(error)}`)
                }
                failNoMore()
                check(told)
                // Closed ones make place for new ones.
                for (const at of [0, 1] as const) {
                  if (groups[at].closed) groups[at] = vfio.VfioGroup.open(at + 1)
                }
                if (containers.some(({ closed }) => closed)) {
                  const [first, second] = containers
                  // In the order of the model.
                  containers[0] = first.closed ? second : first
                  containers[1] = vfio.VfioContainer.open()
                  if (containers[0].closed) containers[0] = containers[1]
                }
                if (containers[0] === containers[1]) containers[1] = vfio.VfioContainer.open()
              }
              for (const each of [...groups, ...containers]) await each.close()
              buffer.close()
              assert.deepEqual(state().model, { containers: [], groups: [], devices: [], iommufds: [] })
            },
          )
          await fc.assert(property, { seed: input.seed, numRuns: input.runs })
          assert(failed > calls / 20, `only ${failed} of ${calls} failed`)
          assert(mapped > calls / 10, `only ${mapped} mappings in ${calls} calls`)
          console.log(`${calls} calls, of which ${failed} failed`)
        },
        {
          input: { seed: SEED, runs: RUNS },
          machine: { linux, mappings: 5, container },
          deadline: DEADLINE_MS,
        },
      )
      assert.match(stdout, /^\d{3,} calls/)
      console.log(stdout.trim())
    })
  }
})
