import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Host } from 'vfio'
import { program } from '../../lib/cli/commands.js'
import { complete } from '../../lib/cli/complete.js'
import { EXAMPLES } from '../../lib/cli/examples.js'
import { makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { skip } from '../fixtures/skip.js'
import { vfio } from './in-process.js'
import { ROOT } from './support.js'

describe('completion', function () {
  this.timeout(60_000)
  after(removeDirectories)
  const devices = () =>
    new Host({
      sysfs: makeHost({
        devices: [
          { address: '0000:00:01.0', headerType: 'bridge', secondaryBus: 1 },
          { address: '0000:01:00.0', group: 1 },
          { address: '0001:02:00.0', group: 2 },
        ],
      }).sysfs,
    }).snapshot().devices
  const words = (...typed: string[]) => complete(program(), typed, devices).map(({ word }) => word)

  it('is of commands, options, choices and addresses, each where it may stand', () => {
    for (const [typed, wanted] of [
      [['rele'], ['release']],
      [['--v'], ['--version']],
      [['__'], []],
      [['nope', ''], []],
      [
        ['export', ''],
        ['qemu', 'libvirt', 'cloud-hypervisor', 'kubevirt'],
      ],
      [
        ['export', 'qemu', ''],
        ['01:00.0', '0001:02:00.0'],
      ],
      [['export', '--machine', 'q35', 'qemu', '01'], ['01:00.0']],
      [['check', '0000:'], ['0000:01:00.0']],
      [['check', '01:00.0', ''], []],
      [['bind', '01:00.0', ''], ['0001:02:00.0']],
      [
        ['bind', '--reset', 'before'],
        ['before', 'before-and-after'],
      ],
      [['bind', '--force', 'm'], ['mount']],
      [
        ['bind', '--dr'],
        ['--driver', '--dry-run'],
      ],
      [['schema', 'vf'], ['vfs']],
      [['help', 'vf'], ['vfs']],
      [['vfs', '01:00.0', ''], []],
    ] as const)
      assert.deepEqual(words(...typed), wanted, typed.join(' '))
  })

  it('knows every command, option and choice that there is', () => {
    for (const command of program().commands.filter((one) => !one.name().startsWith('__'))) {
      assert.ok(words(command.name()).includes(command.name()))
      for (const { long, hidden, argChoices } of command.options) {
        if (hidden || !long) continue
        assert.ok(words(command.name(), long).includes(long), `${command.name()} ${long}`)
        if (argChoices) assert.deepEqual(words(command.name(), long, ''), argChoices)
      }
      const { length = 0 } = EXAMPLES[command.name()] ?? []
      assert.ok(length > 0, `${command.name()} has an example in its help`)
    }
  })

  it('of what was mistyped names the nearest', async () => {
    for (const [args, says] of [
      [['lst'], /Did you mean list\?/],
      [['list', '--jsn'], /Did you mean --json\?/],
      [['export', 'qmeu', '01:00.0'], /did you mean qemu\?/],
      [['bind', '01:00.0', '--reset', 'befor', '--dry-run'], /did you mean before\?/],
      [['persist', '01:00.0', '--initramfs', 'dracot'], /did you mean dracut\?/],
      [['help', 'bnd'], /did you mean bind\?/],
    ] as const) {
      const { status, stderr } = await vfio(args)
      assert.equal(status, 2)
      assert.match(stderr, says)
      assert.match(stderr, /^[^\n]+\n$/)
    }
  })

  describe('in the shells themselves', () => {
    let path = ''
    before(() => {
      const directory = temporaryDirectory()
      // Addresses are those of the machine: what is asked for one is answered in its place.
      const main = join(ROOT, 'dist/cli/main.js')
      writeFileSync(
        join(directory, 'vfio'),
        `#!/bin/sh\nif [ "$1 $3" = "__complete check" ]; then printf '01:00.0\\tNVMe: fast\\n01:00.1\\tother\\n'; else exec '${process.execPath}' '${main}' "$@"; fi\n`,
      )
      chmodSync(join(directory, 'vfio'), 0o755)
      path = `${directory}:${process.env.PATH}`
    })
    const shell = (name: string, ...args: string[]) => {
      const { stdout, stderr, error } = spawnSync(name, args, {
        encoding: 'utf8',
        env: { ...process.env, PATH: path, TERM: 'dumb' },
        timeout: 50_000,
      })
      return error ? null : `${stdout}${stderr}`
    }

    it('bash', () => {
      const typed = (line: string) =>
        shell(
          'bash',
          '-c',
          `source <(vfio completion bash); COMP_LINE=$1; COMP_POINT=\${#1}; _vfio; printf '%s\\n' "\${COMPREPLY[@]}"`,
          'bash',
          line,
        )
      assert.equal(typed('vfio exp'), 'export\n')
      assert.equal(typed('vfio export '), 'qemu\nlibvirt\ncloud-hypervisor\nkubevirt\n')
      assert.equal(typed('vfio check '), '01:00.0\n01:00.1\n')
      assert.equal(typed('vfio check 01:0'), '00.0\n00.1\n')
    })

    it('zsh', function () {
      const script = `
        zmodload zsh/zpty
        zpty z zsh -f -i
        zpty -w z "PS1=; autoload -U compinit; compinit -u -D; source <(vfio completion zsh); echo rea''dy"
        zpty -r z out '*ready*'
        zpty -w -n z $'vfio exp\\t'
        zpty -r z out '*vfio export *'
        print done
        zpty -d z`
      const said = shell('zsh', '-f', '-c', script)
      if (said === null) return skip(this, 'zsh is not installed')
      assert.match(said, /done/)
    })

    it('fish', function () {
      const typed = (line: string) =>
        shell('fish', '-c', `vfio completion fish | source; complete -C '${line}'`)
      const said = typed('vfio exp')
      if (said === null) return skip(this, 'fish is not installed')
      assert.match(said, /^export\tdevices as/)
      assert.equal(typed('vfio check '), '01:00.0\tNVMe: fast\n01:00.1\tother\n')
    })
  })
})
