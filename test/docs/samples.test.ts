import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { allPages, type Block, entriesOf, Page } from '../../scripts/docs/pages.js'
import { ROOT } from '../../scripts/docs/root.js'
import { isMade } from '../../scripts/docs/update.js'

const pages = allPages()
const blocks = pages.flatMap(({ path, blocks }) => blocks.map((block) => ({ path, ...block })))

describe('samples of TypeScript', function () {
  this.timeout(120_000)
  const samples = blocks.filter(({ path, language }) => language === 'ts' && !isMade(path))
  const directory = join(ROOT, 'build/docs-samples')

  /** What the compiler says of sources, in a directory from which `vfio` is this package. */
  function complaints(sources: Readonly<Record<string, string>>): string {
    rmSync(directory, { recursive: true, force: true })
    mkdirSync(directory, { recursive: true })
    for (const [name, text] of Object.entries(sources)) writeFileSync(join(directory, name), text)
    const options = {
      ...{ noEmit: true, strict: true, noUnusedLocals: true, skipLibCheck: true, moduleDetection: 'force' },
      ...{ target: 'es2022', lib: ['es2023', 'esnext.disposable'], module: 'nodenext', types: ['node'] },
      typeRoots: [join(ROOT, 'node_modules/@types')],
    }
    writeFileSync(
      join(directory, 'tsconfig.json'),
      JSON.stringify({ compilerOptions: options, include: ['*.ts'] }),
    )
    const tsc = join(ROOT, 'node_modules/typescript/bin/tsc')
    const { status, stdout } = spawnSync(process.execPath, [tsc, '-p', directory, '--pretty', 'false'], {
      encoding: 'utf8',
      cwd: directory,
    })
    return status === 0 ? '' : stdout
  }

  after(() => rmSync(directory, { recursive: true, force: true }))

  it('compile against the package', () => {
    assert(samples.length > 12)
    const named = samples.map(
      ({ path, line, text }) => [`${path.replaceAll(/[/.]/g, '-')}-${line}.ts`, text] as const,
    )
    assert.equal(complaints(Object.fromEntries(named)), '')
  })

  it('would be refused where they are wrong', () => {
    const said = complaints({ 'wrong.ts': "import { Host } from 'vfio'\nnew Host().snapshot().nothing()\n" })
    assert.match(said, /wrong\.ts\(2,23\): error TS2339/)
  })

  it('say so where a Node that the package is for does not parse them', () => {
    for (const { path, line, text, said } of samples)
      if (/^\s*(await )?using \w+ =/m.test(text))
        assert.match(said, /Node 20 and 22.* compiler/, `${path}:${line}`)
  })
})

interface Command {
  readonly options: ReadonlySet<string>
  /** The options that want a word behind them. */
  readonly values: ReadonlySet<string>
  /** Those below it. */
  readonly commands: readonly string[]
  /** How many arguments it takes, at least and at most. */
  readonly least: number
  readonly most: number
  /** What the first one may be, where it is one of a few words. */
  readonly choices: readonly string[] | null
}

const helps = new Map<string, string>()

/** What `--help` prints, of the program or of a command. */
function help(...words: string[]): string {
  const key = words.join(' ')
  const found = helps.get(key)
  if (found !== undefined) return found
  const program = join(ROOT, 'dist/cli/main.js')
  const { status, stdout } = spawnSync(process.execPath, [program, ...words, '--help'], { encoding: 'utf8' })
  assert.equal(status, 0)
  helps.set(key, stdout)
  return stdout
}

const known = new Map<string, Command | null>()

/** What the help of a command says that it takes, by its words (`mdev create`); `null` where there is no such command. */
function commandOf(...words: readonly string[]): Command | null {
  const key = words.join(' ')
  const found = known.get(key)
  if (found !== undefined) return found
  const isThere = words.every((word, at) => commandsIn(help(...words.slice(0, at))).includes(word))
  const command = isThere ? readHelp(help(...words)) : null
  known.set(key, command)
  return command
}

/** The commands that a help lists. */
const commandsIn = (text: string) => {
  const [, list = ''] = /^Commands:\n(.*?)(\n\n|$(?![\s\S]))/ms.exec(text) ?? []
  return [...list.matchAll(/^ {2}([a-z]+)\b/gm)].map(([, name = '']) => name)
}

function readHelp(text: string): Command {
  const [, usage = ''] = /^Usage: vfio [a-z ]*(.*)$/m.exec(text) ?? []
  const words = usage
    .replace(/\[options\]|\[command\]/g, '')
    .trim()
    .split(/\s+/)
    .filter(Boolean)
  const [, list] =
    /^Arguments:\n.*?\(choices: ([^)]*)\)/ms.exec(text.replace(/^(Options|Examples):.*/ms, '')) ?? []
  return {
    options: new Set([...text.matchAll(/(?:^ {2}|, )(-{1,2}[\w-]+)/gm)].map(([, option = '']) => option)),
    values: new Set([...text.matchAll(/(--[\w-]+) <[^>]+>/g)].map(([, option = '']) => option)),
    commands: commandsIn(text),
    least: words.filter((word) => word.startsWith('<')).length,
    most: words.some((word) => word.includes('...')) ? Number.POSITIVE_INFINITY : words.length,
    choices: list === undefined ? null : [...list.matchAll(/"([^"]+)"/g)].map(([, word = '']) => word),
  }
}

/** Why a line with `vfio` in it would not be taken; `null` where it would. */
function whyWrong(line: string): string | null {
  const [text = ''] = line.split(/ [>|&]|&&|;/)
  const words = text.trim().split(/\s+/).slice(1)
  const [first = ''] = words
  if (first.startsWith('-'))
    return ['--version', '-V', '--help', '-h'].includes(first) ? null : `vfio takes no ${first}`
  const named = [first]
  let command = commandOf(first)
  if (command === null) return `there is no command ${first}`
  while (command.commands.length > 0) {
    named.push(words[named.length] ?? '')
    command = commandOf(...named)
    if (command === null) return `there is no command ${named.join(' ')}`
  }
  const name = named.join(' ')
  // What stands behind two dashes is a command of its own.
  const end = words.indexOf('--')
  const rest = words.slice(named.length, end < 0 ? undefined : end)
  const positional = end < 0 ? [] : words.slice(end + 1)
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    if (!word.startsWith('-')) positional.push(word)
    else if (!command.options.has(word)) return `vfio ${name} takes no ${word}`
    else if (command.values.has(word) && rest.shift() === undefined) return `${word} takes a value`
  }
  if (positional.length < command.least) return `vfio ${name} takes more than ${positional.length} arguments`
  if (positional.length > command.most) return `vfio ${name} takes no more than ${command.most} arguments`
  const { choices } = command
  return choices === null || choices.includes(positional[0] ?? '')
    ? null
    : `vfio ${name} takes ${choices.join(', ')}`
}

const optionsOf = (text: string): readonly string[] => text.match(/--[\w-]+/g) ?? []

/** The options of the device plugin, or of its command. */
function pluginOptions(line: string): readonly string[] {
  const [, word = ''] = line.split(' ')
  const program = join(ROOT, 'kubernetes/bin/vfio-device-plugin.js')
  const args = [program, ...(word.startsWith('-') ? [] : [word]), '--help']
  return optionsOf(spawnSync(process.execPath, args, { encoding: 'utf8' }).stdout)
}

describe('commands on the pages', function () {
  this.timeout(120_000)
  const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { scripts: object }

  /** Every line that somebody might copy. */
  const lines = blocks.flatMap(({ path, line, language, ...block }) => {
    const commands =
      language === 'console'
        ? entriesOf(block).map(({ command }) => command)
        : ['sh', 'ini'].includes(language)
          ? block.text
              .split('\n')
              .map((text) => text.replace(/^Exec\w+=\/usr\/local\/bin\//, '').replace(/\s+# .*$/, ''))
          : []
    return commands.map((command) => ({ at: `${path}:${line}`, command: command.replace(/^npx /, '') }))
  })

  it('are commands, options and arguments that there are', () => {
    const wrong: string[] = []
    let read = 0
    for (const { at, command } of lines) {
      for (const part of command.split(' && ')) {
        if (/^vfio-device-plugin /.test(part)) {
          const unknown = optionsOf(part).filter((option) => !pluginOptions(part).includes(option))
          wrong.push(...unknown.map((option) => `${at}: ${part}: it takes no ${option}`))
        } else if (/^vfio(?= |$)/.test(part)) {
          read++
          const why = whyWrong(part)
          if (why !== null) wrong.push(`${at}: ${part}: ${why}`)
        }
        const [, script] = /^npm run (?:-s )?([\w:]+)/.exec(part) ?? []
        if (script !== undefined && !(script in scripts)) wrong.push(`${at}: there is no script ${script}`)
      }
    }
    assert.deepEqual(wrong, [])
    assert(read > 45, `only ${read} commands were read`)
  })

  it('are such in the running text too, as far as they are written out', () => {
    const wrong: string[] = []
    for (const { path, text } of pages) {
      // What was once may be named there, and messages have places for what differs.
      if (path === 'CHANGELOG.md' || isMade(path)) continue
      for (const [, code = ''] of text.replaceAll(/^```.*?^```$/gms, '').matchAll(/`(vfio [a-z][^`…]*)`/g)) {
        for (const part of code.split(' && ').filter((each) => each.startsWith('vfio '))) {
          const [, name = '', ...words] = part.split(/\s+/)
          let command = commandOf(name)
          if (command?.commands.includes(words[0] ?? '')) command = commandOf(name, words[0] ?? '')
          if (command === null) wrong.push(`${path}: ${part}: there is no command ${name}`)
          const end = words.indexOf('--')
          if (end >= 0) words.length = end
          for (const word of words.filter((each) => each.startsWith('--')))
            if (!command?.options.has(word.replace(/[,;]$/, '')))
              wrong.push(`${path}: ${part}: it takes no ${word}`)
        }
      }
    }
    assert.deepEqual(wrong, [])
  })

  it('are refused where they are wrong', () => {
    assert.equal(whyWrong('vfio bind 01:00.0 --group'), null)
    assert.equal(whyWrong('vfio grant 01:00.0 --user alice --udev > file'), null)
    assert.equal(whyWrong('vfio bend 01:00.0'), 'there is no command bend')
    assert.equal(whyWrong('vfio bind 01:00.0 --gruop'), 'vfio bind takes no --gruop')
    assert.equal(whyWrong('vfio bind'), 'vfio bind takes more than 0 arguments')
    assert.equal(whyWrong('vfio show 1 2'), 'vfio show takes no more than 1 arguments')
    assert.match(whyWrong('vfio export vbox 01:00.0') ?? '', /^vfio export takes qemu, /)
    assert.equal(whyWrong('vfio bind 01:00.0 --force'), '--force takes a value')
  })
})

describe('blocks of the README', () => {
  const { blocks: own } = new Page('README.md')
  const LANGUAGES = ['sh', 'console', 'ts']

  it('are of kinds that a test runs', () => {
    const strange = own.filter(({ language }: Block) => !LANGUAGES.includes(language))
    assert.deepEqual(
      strange.map(({ line, language }) => `README.md:${line}: ${language}`),
      [],
    )
    for (const language of LANGUAGES)
      assert(
        own.some((block) => block.language === language),
        language,
      )
  })

  it('have no command that nobody runs', () => {
    // What is installed is test/package/'s; scripts are of package.json, and commands are read above.
    for (const { line, text } of own.filter(({ language }) => language === 'sh'))
      for (const command of text.split('\n').map((each) => each.replace(/\s*#.*$/, '')))
        assert.match(
          command,
          /^$|^npm install( --global)? vfio$|^npm (run|test)\b|^(npx )?vfio\b|^cd |^git clone /,
          `README.md:${line}`,
        )
  })
})
