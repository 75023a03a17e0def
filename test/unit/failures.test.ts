import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import type { Argument, Command } from 'commander'
import { program } from '../../lib/cli/commands.js'
import { STATUSES, statusOf } from '../../lib/cli/exit.js'
import { type Failure, failedBy, wantsJson } from '../../lib/cli/failure.js'
import { AssignError, VfioError, type VfioErrorCode, VfioSystemError } from '../../lib/index.js'
import { makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { vfio } from './in-process.js'
import { ROOT } from './support.js'

const has = (command: Command, flag: string) => command.options.some(({ long }) => long === flag)

/** Commands that print JSON, with what they cannot do without. */
const commands = program().commands.filter((command) => has(command, '--json'))

const isAddress = (argument: Argument) => argument.name().startsWith('address')

/** Something that fits each argument. */
const FITTING: Readonly<Record<string, string>> = { count: '1' }

function callOf(command: Command, address: string): string[] {
  const words = command.registeredArguments
    .filter((argument) => argument.required || isAddress(argument))
    .map((argument) =>
      isAddress(argument) ? address : (argument.argChoices?.[0] ?? FITTING[argument.name()] ?? 'list'),
    )
  const needed = command.options.flatMap(({ mandatory, long }) => (mandatory ? [long ?? '', 'root'] : []))
  return [command.name(), ...words, ...needed]
}

/** No host has so many buses in so high a domain. */
const NOWHERE = 'fffffff0:ff:1f.7'

describe('failures of the command line', function () {
  this.timeout(60_000)
  let badJournal = ''
  before(() => {
    badJournal = join(temporaryDirectory(), 'file')
    writeFileSync(badJournal, '')
  })
  after(removeDirectories)

  /** Each reason: which commands know it, what is typed, and the code that it has. */
  const reasons: readonly (readonly [
    reason: string,
    fits: (command: Command) => boolean,
    args: (command: Command) => readonly string[],
    code: VfioErrorCode,
  ])[] = [
    [
      'an option that there is not',
      () => true,
      (command) => [...callOf(command, NOWHERE), '--nope'],
      'ERR_VFIO_BAD_ARGUMENT',
    ],
    [
      'a choice that there is not',
      (command) => command.options.some(({ argChoices }) => argChoices !== undefined),
      (command) => [
        ...callOf(command, NOWHERE),
        command.options.find(({ argChoices }) => argChoices !== undefined)?.long ?? '',
        'nope',
      ],
      'ERR_VFIO_BAD_ARGUMENT',
    ],
    [
      'a missing argument',
      (command) => command.registeredArguments.some(({ required }) => required),
      (command) => [command.name()],
      'ERR_VFIO_BAD_ARGUMENT',
    ],
    [
      'a time that is none',
      (command) => has(command, '--timeout'),
      (command) => [...callOf(command, NOWHERE), '--timeout', 'soon'],
      'ERR_VFIO_BAD_ARGUMENT',
    ],
    [
      'text that is no address',
      (command) => command.registeredArguments.some(isAddress),
      (command) => callOf(command, '59:00.8'),
      'ERR_VFIO_BAD_ADDRESS',
    ],
    [
      'a device that there is not',
      // What goes by records knows nothing of devices.
      (command) =>
        command.registeredArguments.some(isAddress) &&
        !['release', 'revoke', 'recover'].includes(command.name()),
      (command) => callOf(command, NOWHERE),
      'ERR_VFIO_NO_DEVICE',
    ],
    [
      'a tree that is none',
      (command) => has(command, '--sysfs'),
      (command) => [
        ...callOf(command, NOWHERE),
        ...(has(command, '--dry-run') ? ['--dry-run'] : []),
        '--sysfs',
        badJournal,
      ],
      'ERR_VFIO_BAD_ARGUMENT',
    ],
    [
      'a journal that is none',
      (command) => ['release', 'status', 'recover', 'revoke'].includes(command.name()),
      (command) => [...callOf(command, '0000:01:00.0'), '--journal', badJournal],
      'ERR_VFIO_BAD_JOURNAL',
    ],
  ]
  for (const [reason, fits, argsOf, code] of reasons) {
    const fitting = commands.filter(fits)
    it(`${reason} is ${code} with status ${STATUSES[code]} for ${fitting.map((one) => one.name()).join(', ')}`, async () => {
      assert.ok(fitting.length >= 3)
      for (const command of fitting) {
        const args = argsOf(command)
        const shown = args.join(' ')
        const plain = await vfio(args)
        const json = await vfio([...args, '--json'])
        const { error } = JSON.parse(json.stdout) as Failure
        assert.equal(error.code, code, `${shown}: ${json.stdout}`)
        assert.equal(json.status, STATUSES[code], shown)
        assert.equal(json.stderr, `vfio: ${error.message}\n`, shown)
        assert.deepEqual(plain, { status: json.status, stdout: '', stderr: json.stderr }, shown)
      }
    })
  }

  it('has one status for each code, whatever error it comes in', () => {
    for (const [code, status] of Object.entries(STATUSES)) {
      const error = new VfioError(code as VfioErrorCode, 'x')
      assert.equal(statusOf(error), status, code)
      assert.equal(statusOf(new AssignError(error, null, [])), status, code)
    }
    const refused = new VfioSystemError({
      errno: constants.errno.EBUSY,
      syscall: 'write',
      request: 'bind',
      path: '/x',
    })
    for (const error of [
      refused,
      new AssignError(refused, null, []),
      Object.assign(new Error(), { code: 'EACCES' }),
    ])
      assert.equal(statusOf(error), 3)
    for (const error of [new TypeError('x'), 'x', null]) assert.equal(statusOf(error), 1)
  })

  it('tells a program what the kernel refused, and what could not be undone', () => {
    const refused = new VfioSystemError({
      errno: constants.errno.EBUSY,
      syscall: 'ioctl',
      request: 'VFIO_GROUP_SET_CONTAINER',
      path: '/dev/vfio/7',
    })
    const told = failedBy(refused)
    assert.deepEqual(
      { ...told, message: '', hint: '' },
      {
        code: 'EBUSY',
        message: '',
        hint: '',
        errno: constants.errno.EBUSY,
        syscall: 'ioctl',
        request: 'VFIO_GROUP_SET_CONTAINER',
        path: '/dev/vfio/7',
      },
    )
    assert.equal(told.hint, refused.hint)
    const half = failedBy(new AssignError(refused, null, ['this']))
    assert.deepEqual([half.code, half.path, half.failures], ['EBUSY', '/dev/vfio/7', ['this']])
    assert.deepEqual(failedBy(new TypeError('wrong')), { code: 'TypeError', message: 'wrong' })
  })

  it('is JSON for who asks for it, wherever that stands, and not for who hands it on', () => {
    assert.ok(wantsJson(['node', 'vfio', 'list', '--json']))
    assert.ok(wantsJson(['node', 'vfio', '--json', 'nope']))
    assert.ok(!wantsJson(['node', 'vfio', 'list']))
    assert.ok(!wantsJson(['node', 'vfio', 'run', '--', 'lsblk', '--json']))
  })

  it('ends the program so', () => {
    const args = [join(ROOT, 'dist/cli/main.js'), 'show', NOWHERE, '--json']
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
    const { error } = JSON.parse(stdout) as Failure
    assert.deepEqual([status, error.code, stderr], [2, 'ERR_VFIO_NO_DEVICE', `vfio: ${error.message}\n`])
  })

  it('leaves a plan that something blocks what it is, and fails where it was to be carried out', async () => {
    const { sysfs: shared } = makeHost({
      devices: [
        { address: '0000:01:00.0', group: 1, driver: 'nvme' },
        { address: '0000:01:00.1', group: 1, driver: 'nvme' },
      ],
    })
    const dry = await vfio(['bind', '01:00.0', '--dry-run', '--json', '--sysfs', shared])
    const plan = JSON.parse(dry.stdout)
    assert.deepEqual(
      [dry.status, plan.blockers[0].code, 'error' in plan],
      [1, 'ERR_VFIO_INCOMPLETE_GROUP', false],
    )
    const root = temporaryDirectory()
    const written = await vfio(['persist', '01:00.0', '--write', '--json', '--root', root, '--sysfs', shared])
    const { error } = JSON.parse(written.stdout) as Failure
    assert.equal(written.status, 1)
    assert.equal(STATUSES[error.code as VfioErrorCode], 1)
    assert.equal(written.stderr, `vfio: ${error.message}\n`)
  })
})
