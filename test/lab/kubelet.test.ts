import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, realpathSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Host, type PciDevice } from 'vfio'
import { awaitsKubelet, builtKubelet } from '../../scripts/lab/kubernetes.js'
import { skip } from '../fixtures/skip.js'
import { allocatable, Daemon, given, KUBELET_DIRECTORY, Node } from './kubelet-node.js'
import { Monitor } from './monitor.js'
import { isAlone, spare } from './spare.js'

const ROOT = fileURLToPath(new URL('../../../..', import.meta.url)).replace(/\/$/, '')
const PLUGIN = join(ROOT, 'kubernetes/bin/vfio-device-plugin.js')
const PROGRAM = fileURLToPath(new URL('./kubelet-program.js', import.meta.url))
const RESOURCE = 'lab.example/disk'
const VARIABLE = 'PCI_RESOURCE_LAB_EXAMPLE_DISK'

/** What the pods see of the guest: programs, libraries, and this checkout. */
const DIRECTORIES = [
  ...new Set(['/usr', '/lib', '/lib64', dirname(realpathSync(process.execPath)), ROOT]),
].filter((directory) => directory === '/usr' || !directory.startsWith('/usr/'))

interface Told {
  readonly opened?: readonly { readonly address: string; readonly vendor: number }[]
  readonly nodes?: readonly string[]
  readonly foreign?: string | null
  readonly released?: string
  readonly failed?: string
}

/** The next that a pod has to say. */
async function told(pod: Daemon): Promise<Told> {
  const words = JSON.parse(await pod.says(/^\{/)) as Told
  assert.equal(words.failed, undefined)
  return words
}

const isPlugged = ({ parent }: PciDevice) =>
  parent !== null && new Host().snapshot().device(parent).capabilities.pcie?.hotplug === true

const nodeOf = (group: number | null) => `/dev/vfio/${group}`

describe("Kubernetes' own kubelet", function () {
  this.timeout(600_000)
  let node: Node
  let config: string
  let plugin: Daemon
  let pod: Daemon
  let [first, second]: readonly PciDevice[] = []

  const startPlugin = () => {
    plugin = new Daemon([process.execPath, PLUGIN, '--config', config])
    return plugin
  }
  const program = (...words: readonly string[]) => [process.execPath, PROGRAM, VARIABLE, ...words]

  before(async function () {
    const kubelet = builtKubelet('kubelet')
    if (kubelet === undefined) skip(this, awaitsKubelet('kubelet') ?? '')
    const devices = spare.filter((device) => isAlone(device) && isPlugged(device))
    ;[first, second] = devices
    assert(first && second, 'the topology has two devices in hot-plug slots, each alone in its group')
    config = join(mkdtempSync(join(tmpdir(), 'lab-plugin-')), 'config.json')
    const select = [{ address: [first.address, second.address] }]
    writeFileSync(config, JSON.stringify({ resources: [{ name: RESOURCE, consumer: 'plain', select }] }))
    execFileSync(process.execPath, [PLUGIN, 'bind', '--config', config], { stdio: 'inherit' })
    node = await Node.start(kubelet)
    await node.startKubelet()
  })
  after(async () => {
    await plugin?.[Symbol.asyncDispose]()
    await pod?.[Symbol.asyncDispose]()
    await node?.[Symbol.asyncDispose]()
  })

  it('takes what the plugin registers', async () => {
    startPlugin()
    await node.kubelet.says(`Got registration request from device plugin with resource name "${RESOURCE}"`)
    await allocatable(RESOURCE, 2)
  })

  it('starts a pod with a device, which that opens, and with no other', async () => {
    pod = node.run({
      name: 'one',
      limits: { [RESOURCE]: 1 },
      command: program(),
      directories: DIRECTORIES,
    })
    const { opened = [], nodes } = await told(pod)
    assert.deepEqual(
      opened.map(({ address }) => address),
      given(RESOURCE),
    )
    const [address] = given(RESOURCE)
    const device = [first, second].find((each) => each?.address === address)
    assert(device)
    assert.deepEqual(opened, [{ address, vendor: device.vendor }])
    assert.deepEqual(nodes, [String(device.group), 'vfio'])
  })
})
