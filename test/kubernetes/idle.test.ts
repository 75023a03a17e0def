import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { removeDirectories } from '../fixtures/host.js'
import { sized } from '../fixtures/size.js'
import { card, disk, Node } from './support.js'

const PROGRAM = fileURLToPath(new URL('serve-program.js', import.meta.url))
const SECONDS = sized(3, 600)
/** What Node itself does a while after it has started, and now and then. */
const PROCESSOR_MS = 300 + SECONDS
const MEGABYTES = 128
/** Of `/proc/PID/stat`, in which Linux counts hundredths of a second for every processor. */
const TICK_MS = 10

/** What a process has had of the processors, and has of the memory. */
function measure(pid: number): { readonly processorMs: number; readonly megabytes: number } {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  const [, resident] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return {
    processorMs: (Number(fields[11]) + Number(fields[12])) * TICK_MS,
    megabytes: Math.round(Number(resident) / 1024),
  }
}

describe('the device plugin that has nothing to do', function () {
  this.timeout((SECONDS + 120) * 1000)
  after(removeDirectories)

  it('takes next to no processor time, and little memory', async () => {
    const cards = ['06', '07', '08', '09'].flatMap((bus, at) => card(bus, 10 + at))
    const disks = ['02', '03', '04', '05'].map((bus, at) => disk(bus, 2 + at))
    const node = new Node({ devices: [...disks, ...cards] })
    const config = join(node.root, 'plugin.yaml')
    const resource = (name: string, ids: string) =>
      `  - { name: example.com/${name}, consumer: kubevirt, select: [{ ids: "${ids}" }] }\n`
    writeFileSync(config, `resources:\n${resource('disk', '144d:a808')}${resource('card', '10de:2204')}`)
    await node.kubelet.start()
    const task = { trees: node.trees, config, kubeletDir: node.root, cdi: node.cdi, port: 0 }
    const plugin = spawn(process.execPath, [PROGRAM, JSON.stringify(task)], { stdio: 'ignore' })
    try {
      for (const name of ['disk', 'card'])
        await node.kubelet.until(`there are 4 of ${name}`, (kubelet) => {
          return kubelet.devices(`example.com/${name}`)?.length === 4
        })
      const start = measure(plugin.pid ?? 0)
      await wait(SECONDS * 1000)
      const end = measure(plugin.pid ?? 0)
      const spent = end.processorMs - start.processorMs
      const found = `8 devices: ${start.megabytes} MB resident; ${SECONDS} s later ${end.megabytes} MB, ${spent} ms of processor`
      if (SECONDS > 60) console.log(found)
      assert.ok(spent <= PROCESSOR_MS && start.megabytes <= MEGABYTES && end.megabytes <= MEGABYTES, found)
    } finally {
      plugin.kill('SIGKILL')
      if (plugin.exitCode === null && plugin.signalCode === null) await once(plugin, 'exit')
      await node.end()
    }
  })
})
