import { mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type DeviceEventKind, Host, type WatchTopic, type watchDevices } from 'vfio'
import { type Config, parseConfig } from '../../kubernetes/src/config.js'
import { type Options, Plugin } from '../../kubernetes/src/plugin.js'
import {
  type DeviceDescription,
  type HostDescription,
  type HostTrees,
  makeHost,
  temporaryDirectory,
} from '../fixtures/host.js'
import { Tree } from '../fixtures/tree.js'
import { FakeKubelet } from './fake-kubelet.js'

/** A graphics card with its sound function, both with VFIO. */
export const card = (
  bus: string,
  group: number,
  more: Partial<DeviceDescription> = {},
): DeviceDescription[] =>
  [
    { class: 0x030000, device: 0x2204 },
    { class: 0x040300, device: 0x1aef },
  ].map((each, at) => ({
    address: `0000:${bus}:00.${at}`,
    vendor: 0x10de,
    group,
    driver: 'vfio-pci',
    resetMethod: 'flr',
    multifunction: true,
    ...each,
    ...more,
  }))

/** One function alone in its group. */
export const disk = (
  bus: string,
  group: number,
  more: Partial<DeviceDescription> = {},
): DeviceDescription => ({
  address: `0000:${bus}:00.0`,
  vendor: 0x144d,
  device: 0xa808,
  class: 0x010802,
  group,
  driver: 'vfio-pci',
  resetMethod: 'flr',
  ...more,
})

/** A resource, as a configuration has it. */
export interface Wanted {
  readonly name: string
  readonly consumer?: string
  readonly select: object | readonly object[]
  readonly primary?: object
}

/** As text, so that what tests use goes through the schema too. */
export function configured(...resources: readonly Wanted[]): Config {
  const written = resources.map(({ consumer = 'kubevirt', select, ...rest }) => ({
    ...rest,
    consumer,
    select: Array.isArray(select) ? select : [select],
  }))
  return parseConfig(JSON.stringify({ resources: written }), 'config.json')
}

/** A plugin on a described host, with the kubelet that it serves. */
export class Node {
  readonly trees: HostTrees
  readonly root: string
  readonly kubelet: FakeKubelet
  readonly log: string[] = []
  readonly cdi: string
  readonly #plugins: Plugin[] = []
  #tell: Parameters<typeof watchDevices>[1] = () => {}

  constructor(host: HostDescription) {
    this.trees = makeHost(host)
    this.root = temporaryDirectory()
    this.cdi = join(this.root, 'cdi')
    mkdirSync(this.cdi)
    this.kubelet = new FakeKubelet(this.root)
  }

  /** Its configuration, made and started beside a kubelet that is there already. */
  async start(config: Config, options: Partial<Options> = {}): Promise<Plugin> {
    const plugin = this.plugin(config, options)
    await plugin.start()
    return plugin
  }

  plugin(config: Config, options: Partial<Options> = {}): Plugin {
    const plugin = new Plugin(config, {
      kubeletDirectory: this.root,
      log: (sentence) => this.log.push(sentence),
      host: new Host(this.trees),
      watch: (listener) => {
        this.#tell = listener
        return { unseen: [], hears: new Set(['devices'] as const), close: () => {} }
      },
      cdiDirectories: [this.cdi],
      specifications: this.cdi,
      ...options,
    })
    this.#plugins.push(plugin)
    return plugin
  }

  /** What the kernel would say now. */
  tell(
    kind: DeviceEventKind,
    address: string | null,
    what = `${address} ${kind}`,
    topic: WatchTopic = 'devices',
  ): void {
    this.#tell({ kind, address, what }, topic)
  }

  /** A process of the host that has a file open. */
  opens(pid: number, command: string, file: string): void {
    const tree = new Tree(dirname(this.trees.sysfs))
    for (const who of ['self', pid]) {
      tree.link(`proc/${who}/ns/mnt`, 'mnt:[4026531841]')
      tree.link(`proc/${who}/root`, '/')
    }
    tree.file(`proc/${pid}/stat`, `${pid} (${command}) S 1 ${pid} ${pid} 0 -1 4194304 0 0\n`)
    tree.link(`proc/${pid}/fd/3`, file)
  }

  async end(): Promise<void> {
    for (const plugin of this.#plugins) await plugin.stop()
    this.kubelet.stop()
  }
}
