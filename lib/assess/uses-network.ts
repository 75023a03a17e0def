import { builtin } from '../builtin.js'
import type { UseFacts } from '../sysfs/use.js'
import type { NetworkInterface, Route } from '../sysfs/use-network.js'
import type { Finding } from './host-use.js'
import type { Remote } from './uses-storage.js'
import { DEEPEST, several } from './uses-text.js'

/** What goes over network interfaces. */
export class Network {
  readonly #byName: ReadonlyMap<string, NetworkInterface>
  readonly #byFunction = new Map<string, NetworkInterface[]>()
  readonly #routes = new Map<string, Route[]>()
  /** The interface that carries the caller's SSH connection. */
  readonly #ssh: string | null
  readonly #isKnown: boolean
  readonly #sshIsKnown: boolean
  /** What comes over each interface from others; and what comes from somewhere, nobody knows by which. */
  readonly #remotes = new Map<string, { readonly server: string; readonly remote: Remote }[]>()
  readonly #unplaced: Remote[] = []
  /** What carries the default route and is above no card in sight: PPPoE, a tunnel, a bridge of Open vSwitch. */
  readonly #loose: readonly string[]

  constructor({ network, known }: UseFacts, remotes: readonly Remote[]) {
    this.#isKnown = known.network
    this.#sshIsKnown = network.sshIsKnown
    this.#byName = new Map(network.interfaces.map((item) => [item.name, item]))
    for (const item of network.interfaces) {
      for (const address of new Set(item.functions)) {
        this.#byFunction.set(address, [...(this.#byFunction.get(address) ?? []), item])
      }
    }
    for (const route of network.routes) {
      this.#routes.set(route.interface, [...(this.#routes.get(route.interface) ?? []), route])
    }
    this.#ssh = network.ssh && interfaceOf(network.ssh, network.interfaces, network.routes)
    const reached = this.#reached()
    const carriers = network.routes.filter(({ length }) => length === 0).map((route) => route.interface)
    this.#loose = [...new Set(carriers)].filter((name) => name !== 'lo' && !reached.has(name))
    const ways = new Map<string, string | null>()
    for (const remote of remotes) {
      const names = remote.servers.map((server) => {
        const name = ways.get(server) ?? interfaceTo(server, network.routes)
        ways.set(server, name)
        // A tunnel, or the bridge of a virtual switch: which card is below, nothing tells.
        return name === 'lo' || (name !== null && reached.has(name)) ? name : null
      })
      if (names.length === 0 || names.includes(null)) this.#unplaced.push(remote)
      for (const [index, name] of names.entries()) {
        const server = remote.servers[index]
        if (name === null || server === undefined) continue
        this.#remotes.set(name, [...(this.#remotes.get(name) ?? []), { server, remote }])
      }
    }
  }

  /** The interfaces of functions, and all above them. */
  #reached(): ReadonlySet<string> {
    const reached = new Set<string>()
    const walk = (item: NetworkInterface | undefined) => {
      if (item === undefined || reached.has(item.name)) return
      reached.add(item.name)
      for (const upper of item.uppers) walk(this.#byName.get(upper))
    }
    for (const items of this.#byFunction.values()) for (const item of items) walk(item)
    return reached
  }

  usesOf(address: string): Finding[] {
    const findings: Finding[] = []
    const visited = new Map<string, boolean>()
    for (const item of this.#byFunction.get(address) ?? []) {
      const used = this.#visit(item, [item.name], visited, findings)
      const isCarrier = used || item.uppers.length > 0 || this.#loose.length > 0
      if (item.up && isCarrier) {
        const may = together(this.#unplaced, `${item.name} may be the way by which this comes`)
        findings.push(...may.map(({ vital: _vital, ...finding }) => ({ ...finding, unknown: true as const })))
      }
      if (!used && item.up) findings.push(this.#idle(item.name))
    }
    return findings
  }

  /** Of an interface that is up and that nothing in sight goes over. */
  #idle(name: string): Finding {
    const what = `${name} is up, without an address`
    return this.#loose.length === 0
      ? { kind: 'network', what, severity: 'warns' }
      : {
          kind: 'network',
          what: `${what}, and may be what ${several(this.#loose)} goes over, which carries the default route`,
          severity: 'blocks',
          unknown: true,
        }
  }

  /** What may go over the interfaces of a function out of sight. */
  unknownOf(address: string): Finding[] {
    const up = (this.#byFunction.get(address) ?? []).filter((item) => item.up || item.uppers.length > 0)
    if (up.length === 0) return []
    const names = several(up.map(({ name }) => name))
    const unknown = (what: string): Finding => ({ kind: 'other', what, severity: 'blocks', unknown: true })
    if (!this.#isKnown) return [unknown(`what goes over ${names} is not known: this takes /proc/net`)]
    const blocks = this.usesOf(address).some(({ severity }) => severity === 'blocks')
    return this.#sshIsKnown || blocks
      ? []
      : [unknown(`whether your SSH connection goes over ${names} could not be seen: root sees it`)]
  }

  /** Does something go over this interface, or over one above it? */
  #visit(
    item: NetworkInterface,
    chain: readonly string[],
    visited: Map<string, boolean>,
    findings: Finding[],
  ): boolean {
    const known = visited.get(item.name)
    if (known !== undefined) return known
    if (chain.length > DEEPEST) return false
    visited.set(item.name, false)
    const lead = chain.join(' → ')
    const tasks = this.#tasksOf(item)
    if (tasks.length > 0) {
      findings.push({ kind: 'network', what: `${lead} ${several(tasks)}`, severity: 'blocks' })
    }
    const remotes = this.#remotes.get(item.name) ?? []
    for (const server of new Set(remotes.map((one) => one.server))) {
      const ofOne = remotes.filter((one) => one.server === server).map(({ remote }) => remote)
      findings.push(...together(ofOne, `${lead} is the way to ${server}`))
    }
    let used = tasks.length > 0 || remotes.length > 0
    const uppers = item.uppers.flatMap((name) => this.#byName.get(name) ?? [])
    for (const upper of uppers) {
      used = this.#visit(upper, [...chain, upper.name], visited, findings) || used
    }
    const upper = uppers.find(({ up }) => up)
    if (!used && item.up && upper) {
      findings.push({
        kind: 'network',
        what: `${lead} is part of ${upper.name}, which is up`,
        severity: 'blocks',
      })
      used = true
    }
    // The datapath of Open vSwitch is down whatever goes over its ports, and nothing links it to the bridges of the host.
    const datapath = uppers.find(({ name }) => VIRTUAL_SWITCH.test(name))
    if (!used && item.up && datapath) {
      const what = `${lead} is a port of ${datapath.name} (Open vSwitch), whose bridges may carry what the host and its guests send`
      findings.push({ kind: 'network', what, severity: 'blocks' })
      used = true
    }
    if (!used && item.up && item.promiscuous) {
      const what = `${lead} takes in all packets (promiscuous), as for a virtual switch, a machine above it or a capture`
      findings.push({ kind: 'network', what, severity: 'blocks' })
      used = true
    }
    visited.set(item.name, used)
    return used
  }

  #tasksOf(item: NetworkInterface): string[] {
    const routes = this.#routes.get(item.name) ?? []
    const networks = routes
      .filter((route) => route.family === 'ipv4' && !route.gateway && route.length > 0 && !isLinkLocal(route))
      .map((route) => `${route.destination}/${route.length}`)
    const tasks: string[] = []
    if (networks.length > 0) tasks.push(`is up with an address in ${several(networks)}`)
    else if (item.up && item.addresses.length > 0)
      tasks.push(`is up with the address ${several(item.addresses)}`)
    if (routes.some(({ length }) => length === 0)) tasks.push('carries the default route')
    else if (networks.length === 0 && routes.some(({ gateway }) => gateway)) tasks.push('carries routes')
    if (item.name === this.#ssh) tasks.push('carries your SSH connection')
    return tasks
  }
}

/** `ovs-system` of the kernel's datapath, `ovs-netdev` of the one in user space. */
const VIRTUAL_SWITCH = /^ovs-/

const isLoopback = (address: string) => address.startsWith('127.') || address === '::1'

/** One sentence for all of a kind: a host may have hundreds of them. */
function together(remotes: readonly Remote[], lead: string): Finding[] {
  const kinds = new Map<string, Finding[]>()
  for (const { finding } of remotes) {
    const key = `${finding.kind} ${finding.vital ?? false}`
    kinds.set(key, [...(kinds.get(key) ?? []), finding])
  }
  return [...kinds.values()].flatMap((findings) => {
    const [first] = findings
    const what = `${lead}: ${several(findings.map((finding) => finding.what))}`
    return first === undefined ? [] : [{ ...first, what }]
  })
}

/** Where packets to an address go; `null`: nothing tells. */
function interfaceTo(server: string, routes: readonly Route[]): string | null {
  const [address = ''] = server.split('%')
  if (isLoopback(address)) return 'lo'
  return builtin('node:net').isIP(address) === 0 ? null : wayTo(address, routes)
}

const isLinkLocal = ({ destination }: Route) => destination.startsWith('169.254.')

/** By the address that the server has here, which routes into its own network; else by the way to the client. */
function interfaceOf(
  { client, server }: { client: string; server: string },
  interfaces: readonly NetworkInterface[],
  routes: readonly Route[],
): string | null {
  const [address = '', zone] = server.split('%')
  if (zone !== undefined) return zone
  if (isLoopback(address)) return null
  const owner = interfaces.find(({ addresses }) => addresses.includes(address))
  return (
    owner?.name ??
    wayTo(
      address,
      routes.filter(({ gateway, length }) => !gateway && length > 0),
    ) ??
    wayTo(client, routes)
  )
}

/** The interface of the longest prefix that an address matches. */
function wayTo(address: string, routes: readonly Route[]): string | null {
  const family = address.includes(':') ? 'ipv6' : 'ipv4'
  let best: Route | null = null
  for (const route of routes) {
    if (route.family === family && route.length > (best?.length ?? -1) && leadsTo(route, address))
      best = route
  }
  return best?.interface ?? null
}

function leadsTo({ destination, length, family }: Route, address: string): boolean {
  // A block list refuses a prefix of no bits, which everything matches.
  if (length === 0) return true
  const list = new (builtin('node:net').BlockList)()
  list.addSubnet(destination, length, family)
  return list.check(address, family)
}
