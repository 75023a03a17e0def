import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, realpathSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Host, type PciDevice } from 'vfio'
import { skip } from '../fixtures/skip.js'
import { allocatable, Daemon, given, Node } from './kubelet-node.js'
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

/** Does somebody have it open? VFIO enables it then. */
const isOpen = ({ address }: PciDevice) =>
  Number(readFileSync(`/sys/bus/pci/devices/${address}/enable`, 'utf8')) > 0

/** The number of a group's node, as `mknod` takes it. */
function numberOf({ group }: PciDevice): string {
  const { rdev } = statSync(`/dev/vfio/${group}`)
  return `${rdev >> 8}:${rdev & 0xff}`
}

const REGISTRATION = `Got registration request from device plugin with resource name "${RESOURCE}"`
const LISTED = `State pushed for device plugin ${RESOURCE}`

describe("Kubernetes' own kubelet", function () {
  this.timeout(600_000)
  let node: Node
  let config: string
  let plugin: Daemon
  const pods: Daemon[] = []
  /** The devices that are offered; the pods get one each, in this order. */
  let devices: readonly PciDevice[]

  const startPlugin = () => {
    plugin = new Daemon([process.execPath, PLUGIN, '--config', config])
  }
  const start = (name: string, count: number, ...words: readonly string[]) => {
    const pod = node.run({
      name,
      limits: { [RESOURCE]: count },
      command: [process.execPath, PROGRAM, VARIABLE, ...words],
      directories: DIRECTORIES,
    })
    pods.push(pod)
    return pod
  }
  const [first, second] = [() => devices[0] as PciDevice, () => devices[1] as PciDevice]

  before(async function () {
    // scripts/test/execute.ts says where it is.
    const { VFIO_KUBELET: directory } = process.env
    if (!directory) skip(this, 'the cache has no kubelet: `npm test -- soak:kubelet` builds it')
    devices = spare.filter((device) => isAlone(device) && isPlugged(device)).slice(0, 2)
    assert.equal(devices.length, 2, 'the topology has two devices in hot-plug slots, each alone in its group')
    config = join(mkdtempSync(join(tmpdir(), 'lab-plugin-')), 'config.json')
    const select = [{ address: devices.map(({ address }) => address) }]
    writeFileSync(config, JSON.stringify({ resources: [{ name: RESOURCE, consumer: 'plain', select }] }))
    execFileSync(process.execPath, [PLUGIN, 'bind', '--config', config])
    node = await Node.start(directory)
    await node.startKubelet()
  })
  afterEach(function () {
    if (this.currentTest?.state !== 'failed') return
    for (const [name, daemon] of Object.entries({ kubelet: node?.kubelet, plugin }))
      console.error(`the ${name} said last:\n${daemon?.lines.slice(-40).join('\n')}`)
  })
  after(async () => {
    for (const each of [plugin, ...pods, node]) await each?.[Symbol.asyncDispose]()
  })

  it('takes what the plugin registers', async () => {
    startPlugin()
    await node.kubelet.says(REGISTRATION)
    await allocatable(RESOURCE, 2)
  })

  it('starts a pod with a device, which that opens', async () => {
    const { opened, nodes } = await told(start('one', 1))
    const addresses = given(RESOURCE)
    devices = devices.toSorted(({ address }) => (addresses.includes(address) ? -1 : 1))
    assert.deepEqual(addresses, [first().address])
    assert.deepEqual(opened, [{ address: first().address, vendor: first().vendor }])
    assert.deepEqual(nodes, [String(first().group), 'vfio'])
  })

  it('refuses a pod that wants more than there is', async () => {
    start('many', 2)
    await node.kubelet.says(/UnexpectedAdmissionError.*Requested: 2, Available: 1/)
    node.remove('many')
  })

  it('is restarted, and has the devices again without anybody, and the pod has its own', async () => {
    await node.stopKubelet()
    await node.startKubelet()
    await node.kubelet.says(REGISTRATION)
    await node.kubelet.says(LISTED)
    await allocatable(RESOURCE, 2)
    assert.deepEqual(given(RESOURCE), [first().address])
    assert(isOpen(first()))
  })

  it('has the devices again when the plugin was killed and starts anew', async () => {
    await plugin.end('SIGKILL')
    await node.kubelet.says(`Mark all resources Unhealthy for resource ${RESOURCE}`)
    startPlugin()
    await node.kubelet.says(REGISTRATION)
    // A device is not ill because a pod has it.
    await node.kubelet.says(LISTED)
    await allocatable(RESOURCE, 2)
  })

  it('gives the other device to another pod, which cannot open the first', async () => {
    const { opened, nodes, foreign } = await told(start('two', 1, numberOf(first())))
    assert.deepEqual(opened, [{ address: second().address, vendor: second().vendor }])
    assert.deepEqual(nodes, [String(second().group), 'vfio'])
    assert.equal(foreign, 'EPERM')
  })

  it('hears that a device is unplugged, which its pod lets go', async () => {
    await using monitor = await Monitor.open()
    const id = [...(await monitor.addresses())].find(([, address]) => address === second().address)?.[0]
    assert(id)
    const gone = monitor.remove(id)
    assert.deepEqual(await told(pods.at(-1) as Daemon), { released: second().address })
    await gone
    await allocatable(RESOURCE, 1)
    assert(isOpen(first()))
  })

  it('hears that there is nothing any more when the plugin is ended', async () => {
    await plugin.end('SIGTERM')
    await allocatable(RESOURCE, 0)
    startPlugin()
    await allocatable(RESOURCE, 1)
    assert.equal(pods[0]?.lines.length, 1)
  })
})
