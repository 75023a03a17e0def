import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { isOfMachine, type Survey } from 'vfio'
import { type ExampleHost, exampleHost } from '../../scripts/docs/host.js'
import { makeHost, removeDirectories } from '../fixtures/host.js'
import { describeLargeHost } from '../fixtures/large-host.js'
import { vfio } from './in-process.js'
import { present, ROOT } from './support.js'

/** What `vfio list` says of a device in its columns. */
interface Told {
  readonly verdict: string
  readonly along: string
  readonly reset: string
}

const WIDTHS = [40, 60, 80, 200]

/** A word may be longer than a line: it stands in one of its own then, behind the name of what it is. */
function assertNarrow(text: string, columns: number, what: string): void {
  for (const line of text.split('\n')) {
    if (line.length <= columns) continue
    const [, words = ''] = /^(?: {2}[A-Za-z][\w -]* {2,}| *)(?:[✓✗!] )?(.*)$/.exec(line) ?? []
    assert.ok(!words.trim().includes(' '), `${what} has ${line.length} of ${columns} columns: ${line}`)
  }
}

describe('list, show and check', function () {
  this.timeout(120_000)
  const former = process.env.COLUMNS
  let example: ExampleHost
  let hosts: readonly string[] = []

  before(() => {
    example = exampleHost()
    hosts = [example.trees.sysfs, makeHost({ devices: describeLargeHost(10) }).sysfs]
  })
  after(() => {
    if (former === undefined) delete process.env.COLUMNS
    else process.env.COLUMNS = former
    example.remove()
    removeDirectories()
  })

  const surveyOf = async (sysfs: string) =>
    JSON.parse((await vfio(['list', '--json', '--free', '--sysfs', sysfs])).stdout) as Survey
  const everything = async (sysfs: string) =>
    JSON.parse((await vfio(['list', '--json', '--sysfs', sysfs])).stdout) as Survey

  it('keep to the line, whatever is in it', async () => {
    for (const sysfs of hosts) {
      const { devices } = await everything(sysfs)
      for (const columns of WIDTHS) {
        process.env.COLUMNS = String(columns)
        const lines = [
          ['list'],
          ['list', '--all'],
          ...devices.flatMap(({ address }) => [
            ['check', address],
            ['show', address],
          ]),
        ]
        for (const line of lines) {
          const { stdout } = await vfio([...line, '--sysfs', sysfs])
          assert.ok(stdout.length > 20, line.join(' '))
          assertNarrow(stdout, columns, line.join(' '))
          assert.doesNotMatch(stdout, /undefined|\[object|NaN/)
        }
      }
    }
  })

  it('say the same of a device, in the same words, and none of them calls a bridge blocked', async () => {
    process.env.COLUMNS = '200'
    for (const sysfs of hosts) {
      const table = (await vfio(['list', '--all', '--sysfs', sysfs])).stdout
      const [head = ''] = table.split('\n')
      const at = (name: string) => head.indexOf(name)
      const { devices } = await everything(sysfs)
      for (const { address, class: code, headerType } of devices) {
        const short = address.replace(/^0000:/, '')
        const line = present(
          table.split('\n').find((one) => one.slice(at('ADDRESS')).startsWith(`${short} `)),
          address,
        )
        // Empty columns are left out, and each ends where the next begins.
        const cell = (name: string) => {
          if (at(name) < 0) return ''
          const end = head.slice(at(name)).search(/ [A-Z]/)
          return line.slice(at(name), end < 0 ? undefined : at(name) + end).trim()
        }
        const told: Told = { verdict: cell('VERDICT'), along: cell('WITH'), reset: cell('RESET') }
        for (const command of ['check', 'show']) {
          const { stdout } = await vfio([command, address, '--sysfs', sysfs])
          const label = (name: string) => new RegExp(`^ {2}${name} +([^:\\n]*)`, 'm').exec(stdout)?.[1] ?? ''
          const where = `${command} ${address}: ${stdout}`
          assert.ok(stdout.startsWith(`${short} `), where)
          assert.ok(line.endsWith((stdout.split('\n')[0] ?? '').replace(/^[^:]*:[^:]*: /, '')), where)
          const isBridge = headerType !== 'normal'
          if (isBridge) assert.deepEqual([told.verdict, label('verdict')], ['-', '-'], where)
          if (isBridge || isOfMachine(code)) continue
          assert.equal(label('verdict'), [told.verdict, told.along].filter(Boolean).join(' '), where)
          assert.equal(label('reset'), told.reset, where)
        }
      }
    }
  })

  it('name addresses as short as they are typed, but in what may be pasted', async () => {
    process.env.COLUMNS = '200'
    for (const sysfs of hosts) {
      for (const { address } of (await surveyOf(sysfs)).devices) {
        for (const command of ['check', 'show']) {
          const { stdout } = await vfio([command, address, '--sysfs', sysfs])
          const rest = stdout.replace(/^ {2}address .*$/m, '').replaceAll(/(?:\/|echo )0000:\S+/g, '')
          assert.doesNotMatch(rest, /\b0000:[0-9a-f]{2}:/)
        }
      }
    }
  })

  it('keep to ASCII in a locale that has no more', () => {
    const sysfs = example.trees.sysfs
    for (const line of [
      ['list', '--all'],
      ['check', 'group:1'],
      ['show', '04:00.0'],
      ['show', '02:00.0'],
    ]) {
      const { stdout } = spawnSync(
        process.execPath,
        [join(ROOT, 'dist/cli/main.js'), ...line, '--sysfs', sysfs],
        {
          encoding: 'utf8',
          env: { ...process.env, COLUMNS: '60', LC_ALL: 'C' },
        },
      )
      assert.ok(stdout.length > 100)
      assert.match(stdout, /^[\n -~]*$/)
    }
  })
})
