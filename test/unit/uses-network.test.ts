import assert from 'node:assert/strict'
import { endianness } from 'node:os'
import { removeDirectories } from '../fixtures/host.js'
import { UsedHost } from '../fixtures/uses.js'

const A = '0000:05:00.0'
const UP = 0x1003
const DOWN = 0x1002

/** One card with the interface eth0. */
function card(flags = UP, uppers: readonly string[] = []): UsedHost {
  const host = new UsedHost({ devices: [{ address: A, group: 5, driver: 'e1000e' }] })
  host.network('eth0', A, flags, uppers)
  host.network('lo', null, 0x9)
  return host
}

/** An address as the kernel prints it in `/proc/net/route`: the number that this machine reads its bytes as. */
function asNumber(address: string): string {
  const bytes = address.split('.').map((byte) => Number(byte).toString(16).padStart(2, '0').toUpperCase())
  return (endianness() === 'LE' ? bytes.reverse() : bytes).join('')
}

type Way = readonly [name: string, destination: string, mask: string, gateway?: string, flags?: string]

function routes(host: UsedHost, ...ways: readonly Way[]): void {
  const lines = ways.map(([name, destination, mask, gateway = '0.0.0.0', flags]) => {
    const bits = flags ?? (gateway === '0.0.0.0' ? '0001' : '0003')
    return `${name}\t${asNumber(destination)}\t${asNumber(gateway)}\t${bits}\t0\t0\t0\t${asNumber(mask)}\t0\t0\t0`
  })
  const head = 'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT'
  host.tree.file('proc/net/route', `${[head, ...lines].join('\n')}\n`)
}

const OWN: Way = ['eth0', '192.168.7.0', '255.255.255.0']
const DEFAULT: Way = ['eth0', '0.0.0.0', '0.0.0.0', '192.168.7.1']

describe('uses of network interfaces', () => {
  after(removeDirectories)

  it('finds nothing on one that is down', () => {
    assert.deepEqual(card(DOWN).uses(A), [])
  })

  it('warns of one that is up without an address', () => {
    const host = card()
    routes(host, ['eth0', '169.254.0.0', '255.255.0.0'])
    host.tree.file('proc/net/if_inet6', 'fe80000000000000505400fffe000500 02 40 20 80     eth0\n')
    assert.deepEqual(host.uses(A), ['warns network: eth0 is up, without an address'])
  })

  it('refuses one with an address, and one that carries the default route', () => {
    const host = card()
    routes(host, OWN)
    assert.deepEqual(host.uses(A), ['blocks network: eth0 is up with an address in 192.168.7.0/24'])
    routes(host, OWN, DEFAULT)
    assert.deepEqual(host.uses(A), [
      'blocks network: eth0 is up with an address in 192.168.7.0/24 and carries the default route',
    ])
    routes(host, DEFAULT)
    assert.deepEqual(host.uses(A), ['blocks network: eth0 carries the default route'])
    routes(host, ['eth0', '10.0.0.0', '255.0.0.0', '192.168.7.1'])
    assert.deepEqual(host.uses(A), ['blocks network: eth0 carries routes'])
  })

  it('leaves out routes of others, and such as refuse', () => {
    const host = card()
    routes(host, ['eth1', '10.0.0.0', '255.0.0.0'], ['eth0', '10.0.0.0', '255.0.0.0', '0.0.0.0', '0200'])
    assert.deepEqual(host.uses(A), ['warns network: eth0 is up, without an address'])
  })

  it('knows IPv6 addresses and the IPv6 default route', () => {
    const host = card()
    const zero = '0'.repeat(32)
    host.tree.file(
      'proc/net/if_inet6',
      [
        '00000000000000000000000000000001 01 80 10 80       lo',
        'fd000000000000000000000000000002 02 40 00 80     eth0',
        '',
      ].join('\n'),
    )
    assert.deepEqual(host.uses(A), ['blocks network: eth0 is up with the address fd00::2'])
    host.tree.file(
      'proc/net/ipv6_route',
      [
        `${zero} 00 ${zero} 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003     eth0`,
        `${zero} 00 ${zero} 00 ${zero} ffffffff 00000001 00000000 00200200       lo`,
        '',
      ].join('\n'),
    )
    assert.deepEqual(host.uses(A), [
      'blocks network: eth0 is up with the address fd00::2 and carries the default route',
    ])
  })

  it('follows bonds, bridges and VLANs', () => {
    const host = card(UP, ['bond0'])
    host.network('bond0', null, UP, ['bond0.7', 'br0'])
    host.network('bond0.7', null, UP)
    host.network('br0', null, UP)
    routes(host, ['bond0.7', '10.7.0.0', '255.255.0.0'], ['br0', '0.0.0.0', '0.0.0.0', '10.0.0.1'])
    assert.deepEqual(host.uses(A), [
      'blocks network: eth0 → bond0 → br0 carries the default route',
      'blocks network: eth0 → bond0 → bond0.7 is up with an address in 10.7.0.0/16',
    ])
  })

  it('refuses a port of a bridge that is up, though the host has no address there', () => {
    const host = card()
    host.network('br0', null, UP)
    host.tree.link(host.inside(A, 'net/eth0/master'), '../../../virtual/net/br0')
    assert.deepEqual(host.uses(A), ['blocks network: eth0 is part of br0, which is up'])
  })

  it('ends where uppers go in a circle', () => {
    const host = card(UP, ['a'])
    host.network('a', null, UP, ['b'])
    host.network('b', null, UP, ['a', 'eth0'])
    assert.deepEqual(host.uses(A), ['blocks network: eth0 → a → b is part of a, which is up'])
  })
})

describe('the SSH connection of the caller', () => {
  after(removeDirectories)

  const connected = (server: string, client = '203.0.113.9') => [
    `SSH_CONNECTION=${client} 50000 ${server} 22`,
  ]

  function host(environment: readonly string[]): UsedHost {
    const used = card()
    used.network('eth1', null, UP)
    routes(used, OWN, ['eth1', '192.168.0.0', '255.255.0.0'], ['eth1', '0.0.0.0', '0.0.0.0', '192.168.1.1'])
    used.tree.file('proc/net/if_inet6', 'fd000000000000000000000000000002 02 40 00 80     eth0\n')
    used.tree.file('proc/self/environ', environment.join('\0'))
    return used
  }

  const WITH = 'blocks network: eth0 is up with an address in 192.168.7.0/24 and carries your SSH connection'
  const WITHOUT = 'blocks network: eth0 is up with an address in 192.168.7.0/24'

  for (const [what, environment, expected] of [
    ['the address of the server', ['A=b', ...connected('192.168.7.2')], WITH],
    ['an IPv4 address in the dress of IPv6', connected('::ffff:192.168.7.2', '::ffff:203.0.113.9'), WITH],
    ['an IPv6 address', connected('fd00::2', 'fd00::9'), WITH],
    ['a zone', connected('fe80::1%eth0', 'fe80::2%eth0'), WITH],
    [
      'the way to the client, where the server has no address here',
      connected('198.51.100.1', '192.168.7.9'),
      WITH,
    ],
    ['another interface', connected('192.168.1.2'), WITHOUT],
    ['the machine itself', connected('127.0.0.1', '127.0.0.1'), WITHOUT],
    ['nothing', ['SSH_CONNECTION='], WITHOUT],
    ['rubbish', connected('not-an-address', '????'), WITHOUT],
  ] as const) {
    it(`is known by ${what}`, () => assert.deepEqual(host(environment).uses(A), [expected]))
  }

  it('is found at an ancestor, since sudo takes it out of the environment', () => {
    const used = host(['HOME=/root'])
    used.tree.file('proc/self/stat', '99 (node) S 98 99 99 0 -1 0 0\n')
    used.process({ pid: 98, command: 'sudo (x', parent: 97, environment: ['SUDO_UID=1000'] })
    used.process({ pid: 97, command: 'bash', parent: 1, environment: connected('192.168.7.2') })
    assert.deepEqual(used.uses(A), [WITH])
  })

  it('is not sought for ever among processes that are their own ancestors', () => {
    const used = host([])
    used.tree.file('proc/self/stat', '99 (node) S 98 99 99 0 -1 0 0\n')
    used.process({ pid: 98, command: 'sudo', parent: 98 })
    assert.deepEqual(used.uses(A), [WITHOUT])
  })
})
