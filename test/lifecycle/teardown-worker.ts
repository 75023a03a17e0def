// The worker of teardown.test.ts: opens everything, starts what it is told to, and ends as it is told to.
import { parentPort, workerData } from 'node:worker_threads'
import { VfioContainer, VfioGroup } from 'vfio'
import type { Cell } from './cells.js'
import { drive } from './driving.js'

const { end, work } = workerData as Cell

const container = VfioContainer.open()
const group = VfioGroup.open(1)
group.setContainer(container)
container.setIommu('type1v2')
const device = await group.openDevice('0000:01:00.0')

// What an environment that goes away does to these promises is nobody's business.
const ignored = () => {}
if (work === 'reset') device.reset().catch(ignored)
if (work === 'queued') for (let i = 0; i < 3; i++) device.reset().catch(ignored)
if (work === 'open') group.openDevice('0000:01:00.1').catch(ignored)
if (work === 'close') void group.close()
if (work === 'aborted') {
  const controller = new AbortController()
  device.reset({ signal: controller.signal }).catch(ignored)
  controller.abort()
}
const driven = drive(work, end, container, device)

parentPort?.postMessage('ready')
if (end === 'exit') process.exit()
// Held, so that no garbage collection closes them first.
if (end === 'terminate') setInterval(() => [container, group, device, driven], 1000)
