import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import type { PciDevice } from 'vfio'
import { skip } from '../fixtures/skip.js'
import { driverOf, put } from './binding.js'
import { choose, isAlone, spare } from './spare.js'

/** The kernel's own tests of VFIO, where its build brought them (scripts/lab/build.ts). */
const DIRECTORY = `/lib/modules/${release()}/selftests`
const programs = existsSync(DIRECTORY)
  ? readdirSync(DIRECTORY)
      .filter((name) => name.endsWith('_test'))
      .sort()
  : []

const NVME_CLASS = 0x010802
/** What `kselftest.h` ends with where a program as a whole has nothing to do. */
const SKIPPED = 4
const HUGE_PAGES = '/proc/sys/vm/nr_hugepages'
const ENABLE_SRIOV = '/sys/module/vfio_pci/parameters/enable_sriov'

const vfio = (...args: readonly string[]) =>
  execFileSync(process.execPath, [join(process.cwd(), 'bin/vfio.js'), ...args], { encoding: 'utf8' })
const theirs = (script: string, address: string) =>
  execFileSync('bash', [join(DIRECTORY, script), address], { encoding: 'utf8' })

/** What each test came to: `ok`, `skip`, or `not ok` with all that its program said; a program that is skipped is one test. */
function run(program: string, address: string): [string, string][] {
  const { status, stdout, stderr } = spawnSync(join(DIRECTORY, program), [address], { encoding: 'utf8' })
  if (status === SKIPPED) return [[program, 'skip']]
  const results = [...stdout.matchAll(/^(ok|not ok) \d+ (.*?)(?: # (SKIP)\b.*)?$/gm)].map(
    ([, result = '', name = '', skipped]): [string, string] => [
      `${program} ${name}`,
      skipped !== undefined ? 'skip' : result === 'ok' ? result : `not ok\n${stdout}${stderr}`,
    ],
  )
  // A program may also end before its first test.
  if (status !== 0 && !results.some(([, result]) => result.startsWith('not ok'))) {
    results.push([program, `ended with ${status}\n${stdout}${stderr}`])
  }
  return results
}

const runAll = (some: readonly string[], address: string) =>
  new Map(some.flatMap((program) => run(program, address)))
const count = (results: ReadonlyMap<string, string>, wanted: string) =>
  [...results.values()].filter((result) => result === wanted).length

describe(`the kernel's own tests of VFIO, on ${release()}`, function () {
  this.timeout(600_000)

  before(function () {
    if (programs.length === 0) skip(this, 'this kernel brought none')
    // So that fewer of them are skipped; not every size has room.
    writeFileSync(HUGE_PAGES, '16')
    if (existsSync(ENABLE_SRIOV)) writeFileSync(ENABLE_SRIOV, 'Y')
  })
  after(() => {
    if (programs.length === 0) return
    writeFileSync(HUGE_PAGES, '0')
    if (existsSync(ENABLE_SRIOV)) writeFileSync(ENABLE_SRIOV, 'N')
  })

  const kinds: readonly (readonly [string, (device: PciDevice) => boolean, RegExp])[] = [
    [
      'NVMe controller',
      (device) => device.class === NVME_CLASS && device.sriov === null && isAlone(device),
      /./,
    ],
    // Their driver of this card gets nowhere with the one that QEMU (10.0) has, whoever binds it.
    [
      'network card with virtual functions',
      ({ vendor, device }) => vendor === 0x8086 && device === 0x10c9,
      /sriov/,
    ],
  ]
  for (const [what, fits, wanted] of kinds) {
    it(`come to the same on a ${what} that this library bound as on one that they bound`, function () {
      if (!spare.some(fits)) skip(this, `this host has no ${what}`)
      const { address } = choose(what, fits)
      const some = programs.filter((name) => wanted.test(name))
      put(address, 'host')
      const before = driverOf(address)

      vfio('bind', address)
      const ours = runAll(some, address)
      vfio('release', address)
      assert.equal(driverOf(address), before)

      theirs('setup.sh', address)
      const expected = runAll(some, address)
      theirs('cleanup.sh', address)
      put(address, 'host')

      console.log(
        `    ${what}: ${ours.size} run, ${count(ours, 'ok')} passed, ${count(ours, 'skip')} skipped by name`,
      )
      assert.deepEqual(ours, expected)
      const failed = [...ours].filter(([, result]) => result !== 'ok' && result !== 'skip')
      assert.deepEqual(failed, [])
      assert(count(ours, 'ok') > 0)
    })
  }
})
