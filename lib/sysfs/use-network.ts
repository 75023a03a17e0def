import { constants, endianness } from 'node:os'
import { builtin } from '../builtin.js'
import { below, readText } from './files.js'
import { readBatch } from './tree.js'
import { lookFailed } from './unseen.js'
import { byLength, type Concerns, readPlaces } from './use-paths.js'

/** A network interface in the caller's network namespace. */
export interface NetworkInterface {
  readonly name: string
  readonly functions: readonly string[]
  /** Switched on (IFF_UP). */
  readonly up: boolean
  /** Only where it takes in packets for others too (IFF_PROMISC). */
  readonly promiscuous?: true
  /** The interfaces above it: bonds, bridges, VLANs, … */
  readonly uppers: readonly string[]
  /** IPv6 addresses of more than link scope. */
  readonly addresses: readonly string[]
}

/** A way that leads somewhere from the main routing table; the default route has length 0. */
export interface Route {
  readonly interface: string
  readonly family: 'ipv4' | 'ipv6'
  readonly destination: string
  /** Length of the prefix in bits. */
  readonly length: number
  /** It goes by a gateway, and so says nothing about the interface's own addresses. */
  readonly gateway: boolean
}

export interface NetworkFacts {
  readonly interfaces: readonly NetworkInterface[]
  readonly routes: readonly Route[]
  /** The ends of the SSH connection that the caller came by. */
  readonly ssh: { readonly client: string; readonly server: string } | null
  /** `false`: a process that the caller came from keeps its environment to itself. */
  readonly sshIsKnown: boolean
}

const IFF_UP = 1
const IFF_PROMISC = 0x100
const RTF_UP = 1
const RTF_GATEWAY = 2
const RTF_REJECT = 0x200

export function readNetwork(
  sysfs: string,
  proc: string | null,
  names: readonly string[],
  concerns: Concerns,
): NetworkFacts {
  const places = readPlaces(sysfs, 'class/net', names)
  // Without a card of these nothing here can be lost with one.
  if (!places.some(({ functions }) => concerns(functions))) return { interfaces: [], routes: [], ...NO_SSH }
  const batch = readBatch(`${sysfs}/class/net`, names, { files: ['flags'], links: ['master'], lists: ['.'] })
  const addresses = readAddresses(proc)
  const interfaces = places.map(({ name, functions }, row) => {
    const uppers = batch
      .names(row, '.')
      .filter((entry) => entry.startsWith('upper_'))
      .map((entry) => entry.slice('upper_'.length))
      .sort(byLength)
    const master = batch.linkName(row, 'master')
    const flags = Number(batch.text(row, 'flags') ?? 0)
    return {
      name,
      functions,
      up: (flags & IFF_UP) !== 0,
      ...((flags & IFF_PROMISC) !== 0 && { promiscuous: true as const }),
      uppers: [...new Set(master === null ? uppers : [master, ...uppers])],
      addresses: addresses.get(name) ?? [],
    }
  })
  const mayCarry = interfaces.some(
    ({ functions, up, uppers }) => concerns(functions) && (up || uppers.length > 0),
  )
  return {
    interfaces,
    routes: [...readRoutes(proc), ...readRoutes6(proc)],
    ...(mayCarry ? readSsh(proc) : NO_SSH),
  }
}

const NO_SSH = { ssh: null, sshIsKnown: true } as const

const lines = (proc: string | null, file: string) => (readText(below(proc, file)) ?? '').split('\n')

/** `eth0 0002000A 00000000 0001 0 0 100 00FFFFFF 0 0 0`: an address is printed as a number of this machine. */
function readRoutes(proc: string | null): Route[] {
  return lines(proc, 'net/route').flatMap((line) => {
    const [name = '', destination = '', , flagsText = '', , , , mask = ''] = line.trim().split(/\s+/)
    const flags = Number.parseInt(flagsText, 16)
    if (!/^[0-9A-F]{8}$/i.test(destination) || !/^[0-9A-F]{8}$/i.test(mask) || !isUsable(flags)) return []
    const bytes = [...Buffer.from(destination, 'hex')]
    if (endianness() === 'LE') bytes.reverse()
    const ones = Number.parseInt(mask, 16).toString(2).replaceAll('0', '').length
    const gateway = (flags & RTF_GATEWAY) !== 0
    return [{ interface: name, family: 'ipv4', destination: bytes.join('.'), length: ones, gateway }]
  })
}

/** `<destination> 40 <source> 00 <next hop> <metric> <references> <use> <flags> eth0` */
function readRoutes6(proc: string | null): Route[] {
  return lines(proc, 'net/ipv6_route').flatMap((line) => {
    const [to = '', length = '', , , hop = '', , , , flags = '', name = ''] = line.trim().split(/\s+/)
    const destination = toIpv6(to)
    const bits = Number.parseInt(length, 16)
    if (destination === null || !(bits <= 128) || !isUsable(Number.parseInt(flags, 16))) return []
    // Multicast, link-local and the machine's own addresses lead nowhere.
    if (/^f(f|e[89ab])/i.test(to) || name === 'lo' || name === '' || /^80/.test(flags)) return []
    const gateway = /[1-9a-f]/i.test(hop)
    return [{ interface: name, family: 'ipv6', destination, length: bits, gateway }]
  })
}

const isUsable = (flags: number) => (flags & RTF_UP) !== 0 && (flags & RTF_REJECT) === 0

/** `fe80…0001 02 40 20 80 eth0`: address, index, length, scope (0 is global, 0x40 site), flags, interface. */
function readAddresses(proc: string | null): Map<string, string[]> {
  const addresses = new Map<string, string[]>()
  for (const line of lines(proc, 'net/if_inet6')) {
    const [text = '', , , scope = '', , name = ''] = line.trim().split(/\s+/)
    const address = toIpv6(text)
    if (address === null || name === '' || (scope !== '00' && scope !== '40')) continue
    addresses.set(name, [...(addresses.get(name) ?? []), address])
  }
  return addresses
}

function toIpv6(digits: string): string | null {
  if (!/^[0-9a-f]{32}$/i.test(digits)) return null
  const address = digits.replace(/.{4}(?=.)/g, '$&:')
  const { SocketAddress } = builtin('node:net')
  return new SocketAddress({ address, family: 'ipv6' }).address
}

const { EACCES, EPERM } = constants.errno

/** As much of an environment as is read, in bytes. */
const ENVIRONMENT = 2 ** 20

/** No line of ancestors is longer than this. */
const ANCESTORS = 64

/** `SSH_CONNECTION` of the caller, or of a process that it came from: `sudo` takes it out of the environment. */
function readSsh(proc: string | null): Pick<NetworkFacts, 'ssh' | 'sshIsKnown'> {
  let pid = 'self'
  let sshIsKnown = true
  for (let step = 0; step < ANCESTORS; step++) {
    const file = 'environ'
    const environ = readBatch(proc ?? '', [pid], {
      files: [file],
      judged: [file],
      limits: { environ: ENVIRONMENT },
    })
    const errno = environ.errno(0, file)
    if (errno === EACCES || errno === EPERM) sshIsKnown = false
    else if (errno !== 0) lookFailed('read', errno, `${proc}/${pid}/${file}`)
    const value = (environ.text(0, file) ?? '')
      .split('\0')
      .find((entry) => entry.startsWith('SSH_CONNECTION='))
    const [client = '', , server = ''] = value?.slice('SSH_CONNECTION='.length).split(' ') ?? []
    if (client !== '' && server !== '')
      return { ssh: { client: plain(client), server: plain(server) }, sshIsKnown: true }
    const stat = readText(below(proc, `${pid}/stat`)) ?? ''
    const parent = /^\S+ (\d+)/.exec(stat.slice(stat.lastIndexOf(')') + 2))?.[1]
    if (parent === undefined || parent === '0') break
    pid = parent
  }
  return { ssh: null, sshIsKnown }
}

/** IPv4 in the dress of IPv6, as a server on both sees it. */
const plain = (address: string) => address.replace(/^::ffff:(?=\d+\.)/i, '')
