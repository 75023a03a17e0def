import { VfioSystemError } from '../errors.js'
import type { NativeMessages } from '../native/binding.js'
import { call } from '../native/translate.js'
import { decodeName } from './bytes.js'
import type { DeviceEvent } from './device-events.js'
import { linkTarget, listNames } from './files.js'
import { leavingOut } from './unseen.js'

/** Of `inotify(7)`. */
const IN_CLOSE = 0x18
const IN_OPEN = 0x20
const IN_MOVED_TO = 0x80
const IN_CREATE = 0x100
const IN_Q_OVERFLOW = 0x4000
const IN_IGNORED = 0x8000
const IN_ONLYDIR = 0x1000000
const CREATED = IN_CREATE | IN_MOVED_TO
/** Watch, events, cookie and length of the name. */
const HEAD_BYTES = 16

const GROUP_NODE = /^(?:noiommu-)?(\d{1,10})$/
const DEVICE_NODE = /^vfio\d{1,10}$/

/**
 * Opens and closes of VFIO's nodes, told by the directories that they are in: also of nodes that come later, and where this user
 * may not open them. What is opened by a node of another directory (of a container's own `/dev`) is not told.
 */
export class NodeEvents {
  readonly #native: NativeMessages
  readonly #dev: string
  readonly #sysfs: string
  readonly #watched = new Map<number, string>()
  /** Of whom a node was when it was known last: it may be gone from sysfs when it is closed. */
  readonly #members = new Map<string, readonly string[]>()

  /**
   * @param native of `openInotify()`
   * @throws VfioSystemError where the directories cannot be watched
   */
  constructor(native: NativeMessages, dev = '/dev', sysfs = '/sys') {
    this.#native = native
    this.#dev = dev
    this.#sysfs = sysfs
    this.#follow(dev)
  }

  /**
   * What a batch of `inotify` tells.
   * @throws VfioSystemError where a directory that has come cannot be watched
   */
  events(batch: Uint8Array): DeviceEvent[] {
    const events: DeviceEvent[] = []
    for (let at = 0; at + HEAD_BYTES <= batch.length; ) {
      const head = new DataView(batch.buffer, batch.byteOffset + at, HEAD_BYTES)
      const length = head.getUint32(12, LITTLE)
      const name = batch.subarray(at + HEAD_BYTES, at + HEAD_BYTES + length)
      const end = name.indexOf(0)
      const text = decodeName(Buffer.from(end < 0 ? name : name.subarray(0, end)))
      events.push(...this.#happened(head.getInt32(0, LITTLE), head.getUint32(4, LITTLE), text))
      at += HEAD_BYTES + length
    }
    return events
  }

  /** The parent first, so that none comes in between. */
  #follow(directory: string): void {
    const inner = `${this.#dev}/vfio`
    const isOuter = directory === this.#dev
    const wanted = isOuter ? CREATED : CREATED | IN_OPEN | IN_CLOSE
    try {
      this.#watched.set(
        call(() => this.#native.addPath(directory, wanted | IN_ONLYDIR)),
        directory,
      )
    } catch (error) {
      if (error instanceof VfioSystemError && ['ENOENT', 'ENOTDIR'].includes(error.code)) return
      throw error
    }
    if (isOuter) this.#follow(inner)
    else if (directory === inner) this.#follow(`${inner}/devices`)
  }

  #happened(watched: number, events: number, name: string): readonly DeviceEvent[] {
    if (events & IN_Q_OVERFLOW)
      return [
        Object.freeze({
          kind: 'lost',
          address: null,
          what: 'more was opened and closed than there was room for: look at the host anew',
        }),
      ]
    const directory = this.#watched.get(watched)
    if (directory === undefined) return []
    if (events & IN_IGNORED) {
      this.#watched.delete(watched)
      return []
    }
    const path = `${directory}/${name}`
    if (events & CREATED) {
      if (!['/vfio', '/vfio/devices'].some((end) => path === this.#dev + end)) return []
      this.#follow(path)
      // What was opened in it before it was watched is told by nobody.
      return [
        Object.freeze({ kind: 'lost', address: null, what: `${path} came just now: look at the host anew` }),
      ]
    }
    return events & IN_OPEN
      ? this.#ofNode('opened', directory, name)
      : events & IN_CLOSE
        ? this.#ofNode('closed', directory, name)
        : []
  }

  #ofNode(kind: 'opened' | 'closed', directory: string, name: string): readonly DeviceEvent[] {
    const isDevice = directory === `${this.#dev}/vfio/devices`
    const group = isDevice ? undefined : GROUP_NODE.exec(name)?.[1]
    if (isDevice ? !DEVICE_NODE.test(name) : group === undefined) return []
    const path = `${directory}/${name}`
    const found = leavingOut(() => (group === undefined ? this.#ofDevice(name) : this.#ofGroup(group)))
    if (found.length > 0) this.#members.set(path, found)
    const members: readonly (string | null)[] = this.#members.get(path) ?? [null]
    return members.map((address) => {
      const whose = address === null ? '' : `, the ${isDevice ? 'node' : 'group'} of ${address},`
      return Object.freeze({ kind, address, what: `${path}${whose} was ${kind}` })
    })
  }

  #ofGroup = (group: string) => listNames(`${this.#sysfs}/kernel/iommu_groups/${group}/devices`)

  /** `…/0000:01:00.0/vfio-dev/vfio3` */
  #ofDevice(name: string): string[] {
    const target = linkTarget(`${this.#sysfs}/class/vfio-dev/${name}`)
    const owner = target?.split('/').at(-3)
    return owner === undefined ? [] : [owner]
  }
}

const LITTLE = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1
