// Runs inside the guest: the same ioctls from JavaScript and from C on one device, in turn. Prints JSON.
import { openDevice } from 'vfio'
import { bindFree, build, compare, run } from './peers.js'

// Compiling JavaScript takes a second where the processor is emulated: what a call costs shows behind that.
const COUNT = 200_000

const bound = bindFree('device with MSI-X', ({ capabilities }) => capabilities.msix !== null)
const program = build('ioctls')

async function ours() {
  await using opened = await openDevice(bound.address, { backend: 'group' })
  const { group, device } = opened
  const time = (question: () => unknown) => {
    const start = performance.now()
    for (let i = 0; i < COUNT; i++) question()
    return ((performance.now() - start) * 1e6) / COUNT
  }
  return {
    status: time(() => group.status()),
    regionInfo: time(() => device.regionInfo('bar0')),
    irqInfo: time(() => device.irqInfo('msix')),
  }
}

console.log(JSON.stringify(await compare(ours, () => run(program, bound, [COUNT]))))
