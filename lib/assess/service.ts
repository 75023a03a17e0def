import type { Process } from '../sysfs/use-processes.js'

/** What started a process and can end it, by its control group. */
export interface ProcessOwner {
  /** For people: `service gdm.service`, `docker container 0123456789ab`, `session 2 of user 1000`. */
  readonly text: string
  /** A service of the host, which `systemctl stop` ends; `null` for everything else. */
  readonly service: string | null
  /** It ends with the sessions of users. */
  readonly inSession: boolean
}

/** What systemd takes as the name of a unit (`unit_name_is_valid`). No shell and no terminal sees more in it. */
const UNIT = /^[\w:.@\\-]+\.(service|scope)$/

/** How container engines name the scope of a container, by its id: Docker, containerd and CRI-O below Kubernetes, podman. */
const CONTAINER_SCOPE = /^(docker|cri-containerd|nerdctl|crio|libpod)-([0-9a-f]{64})\.scope$/
const ENGINES: Readonly<Record<string, string>> = {
  docker: 'docker',
  'cri-containerd': 'containerd',
  nerdctl: 'containerd',
  crio: 'CRI-O',
  libpod: 'podman',
}
/** Without systemd they nest directories, of which the last is the id. */
const CONTAINER_DIRECTORY = /^(?:.*-)?([0-9a-f]{64})$/
/** As many digits as the engines themselves show. */
const SHORT_ID = 12

/**
 * Who a process belongs to; `null` where its control group does not say. The first unit on the path is the manager's own
 * (`cg_path_get_unit`): what is below it names itself.
 */
export function ownerOf({ cgroup }: Process): ProcessOwner | null {
  if (cgroup === undefined) return null
  const parts = cgroup.split('/').filter((part) => part !== '')
  const at = parts.findIndex((part) => !part.endsWith('.slice'))
  const uid = userOf(parts.slice(0, at))
  const unit = unitOf(parts[at])
  const manager = /^user@(\d+)\.service$/.exec(unit ?? '')?.[1]
  if (manager !== undefined) return ownerBelow(parts.slice(at + 1), manager)
  if (unit !== null) return uid === null ? ofHost(unit) : ofUser(unit, uid)
  return containerIn(parts)
}

/** A unit of the manager of a user. */
function ownerBelow(parts: readonly string[], uid: string): ProcessOwner {
  const unit = unitOf(parts.find((part) => !part.endsWith('.slice')))
  return unit === null ? { text: `user ${uid}`, service: null, inSession: true } : ofUser(unit, uid)
}

function ofUser(unit: string, uid: string): ProcessOwner {
  const session = /^session-(\w+)\.scope$/.exec(unit)?.[1]
  const what = containerOf(unit) ?? (session === undefined ? unescapeUnit(unit) : `session ${session}`)
  return { text: `${what} of user ${uid}`, service: null, inSession: true }
}

function ofHost(unit: string): ProcessOwner | null {
  // The first process of all.
  if (unit === 'init.scope') return null
  const container = containerOf(unit)
  if (container !== null) return { text: container, service: null, inSession: false }
  const machine = /^machine-(.+)\.scope$/.exec(unit)?.[1]
  if (machine !== undefined) {
    return { text: `machine ${unescapeUnit(machine)}`, service: null, inSession: false }
  }
  const isService = unit.endsWith('.service')
  return {
    text: `${isService ? 'service' : 'scope'} ${unescapeUnit(unit)}`,
    service: isService ? unit : null,
    inSession: false,
  }
}

const userOf = (slices: readonly string[]) =>
  slices.flatMap((slice) => /^user-(\d+)\.slice$/.exec(slice)?.[1] ?? []).at(-1) ?? null

/** The kernel's own files are kept apart by a `_` in front (`cg_escape`). */
function unitOf(part: string | undefined): string | null {
  const name = part?.replace(/^_/, '') ?? ''
  return UNIT.test(name) ? name : null
}

function containerOf(unit: string): string | null {
  const [, engine = '', id] = CONTAINER_SCOPE.exec(unit) ?? []
  return id === undefined ? null : `${ENGINES[engine]} container ${id.slice(0, SHORT_ID)}`
}

function containerIn(parts: readonly string[]): ProcessOwner | null {
  // What runs in one may nest more directories below.
  const id = parts.flatMap((part) => CONTAINER_DIRECTORY.exec(part)?.[1] ?? [])[0]
  const lxc = parts.flatMap((part) => /^lxc\.payload\.([\w.-]+)$/.exec(part)?.[1] ?? [])[0]
  const name = id?.slice(0, SHORT_ID) ?? lxc
  return name === undefined ? null : { text: `container ${name}`, service: null, inSession: false }
}

/** `\x2d` is how systemd writes a `-` that is none of its own (`unit_name_escape`). */
const unescapeUnit = (name: string) =>
  name.replace(/\\x([0-9a-f]{2})/g, (_all, code: string) => String.fromCharCode(Number.parseInt(code, 16)))

/** How to end what has something open, by its owners; `null` where no command does. */
export function stopCure(services: readonly string[], inSession: boolean, isDisplay: boolean): string | null {
  const [first] = services
  const stop =
    first === undefined
      ? []
      : [`systemctl stop ${services.map((name) => (name.includes('\\') ? `'${name}'` : name)).join(' ')}`]
  // Graphical sessions and what manages them belong to a target of their own, which another one takes the place of.
  const isolate =
    isDisplay && (first !== undefined || inSession) ? ['systemctl isolate multi-user.target'] : []
  const all = [...stop, ...isolate].map((command) => `"${command}"`)
  return all.length === 0 ? null : all.join(' or ')
}
