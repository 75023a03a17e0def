import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { collectMessages, messagesOf } from '../../scripts/docs/messages.js'
import { allPages, entriesOf, fill, Page } from '../../scripts/docs/pages.js'
import { ROOT } from '../../scripts/docs/root.js'
import { Session } from '../../scripts/docs/session.js'
import { isNamed, lineOf, upToDate } from '../../scripts/docs/update.js'
import { skip } from '../fixtures/skip.js'

const AGAIN = 'run `npm run docs:update`, and read what changed'

describe('the pages', function () {
  // The command line is started once for each session on them.
  this.timeout(120_000)
  let session: Session
  before(function () {
    if (process.arch !== 'x64') skip(this, 'the host on the pages is an x86-64 one')
    session = new Session()
  })
  after(() => session?.end())

  it('say what the program prints, what the sources have, and what the declarations tell', () => {
    const pages = upToDate(session)
    for (const { path, text } of pages)
      assert.equal(readFileSync(join(ROOT, path), 'utf8'), text, `${path} is behind: ${AGAIN}`)
    const made = readdirSync(join(ROOT, 'docs/api')).map((name) => `docs/api/${name}`)
    assert.deepEqual(
      made.filter((path) => !pages.some((page) => page.path === path)),
      [],
      AGAIN,
    )
  })

  it('are of the example, and of no host that they are made on', () => {
    for (const line of ['vfio list', 'vfio show 01:00.0', 'vfio check 01:00.0', 'vfio topology'])
      assert.match(session.run(line).stdout, /01:00\.0 .*GeForce|01:00\.0 +VGA/, line)
  })

  it('show commands that answer as somebody would hope', () => {
    let run = 0
    for (const { path, blocks } of allPages()) {
      for (const block of blocks.filter(({ language }) => language === 'console')) {
        for (const { prompt, command } of entriesOf(block)) {
          if (prompt !== '$' || !command.startsWith('vfio ')) continue
          run++
          const { status, stdout, stderr } = session.run(
            command,
            block.info === '' ? undefined : (block.info as 'debian'),
          )
          assert(
            status === 0 || status === 1 || status === 2,
            `${path}:${block.line}: ${command}: status ${status}`,
          )
          assert.doesNotMatch(
            stdout + stderr,
            /^ {4}at |unknown (option|command)|missing required/m,
            `${path}:${block.line}`,
          )
        }
      }
    }
    assert(run > 20, `only ${run} commands were run`)
  })

  it('have no trace of where they were made', () => {
    for (const { path, text } of allPages()) assert.doesNotMatch(text, /\/dev\/shm|\/tmp\/|vfio-unit-/, path)
  })
})

describe('messages', () => {
  const messages = collectMessages()
  const pages = allPages().filter(({ path }) => path.startsWith('docs/trouble/'))
  const marks = pages.flatMap(({ path, text }) =>
    [...text.matchAll(/<!-- messages: (.*?) -->/g)].map(([, names = '']) => ({ path, names })),
  )

  it('are found in the sources', () => {
    const source = `
      import { a } from 'a module with many words'
      throw new VfioError('ERR_VFIO_CLOSED', \`\${name} is closed now: open it again\`)
      vfio.command('x').description('what a command does, which is no message').action(run(act))
      const blocker = { code: 'ERR_VFIO_IN_USE', reason: \`it is \${used} by somebody else\` }
      const path = \`\${root}/a/path/\${name}\`
      const short = 'not so long'`
    assert.deepEqual(messagesOf('x.ts', source), [
      { file: 'x.ts', text: '… is closed now: open it again', code: 'ERR_VFIO_CLOSED' },
      { file: 'x.ts', text: 'it is … by somebody else', code: 'ERR_VFIO_IN_USE' },
    ])
    assert(messages.length > 600, `only ${messages.length} were found`)
  })

  it('are all on a page', () => {
    const homeless = messages.filter((message) => !marks.some(({ names }) => isNamed(message, names)))
    assert.deepEqual(
      [...new Set(homeless.map(({ file, code }) => code ?? `lib/${file}`))],
      [],
      'no mark "<!-- messages: … -->" below docs/trouble/ names these: add them to the section where a reader would look, with their cause',
    )
  })

  it('stand where a mark says, and every mark has some', () => {
    for (const { path, names } of marks) {
      for (const name of names.split(' ')) {
        const own = messages.filter((message) => isNamed(message, name))
        const page = pages.find((each) => each.path === path)?.text ?? ''
        for (const { text } of own) assert(page.includes(`\n- ${lineOf(text)}\n`), `${path}: ${text}`)
      }
      const isCode = names.startsWith('ERR_')
      assert(
        isCode || messages.some((message) => isNamed(message, names)),
        `${path}: nothing of ${names} is left`,
      )
    }
  })

  it('have a cause before them', () => {
    for (const { path, text } of pages) {
      for (const section of text.split(/^(?=## )/m).filter((part) => part.includes('<!-- messages:'))) {
        const [, said = ''] = /^## [^\n]*\n(.*?)<!-- messages:/s.exec(section) ?? []
        assert(said.trim().length > 20, `${path}: ${section.slice(0, 40)}`)
      }
    }
  })

  it('have every error code, each with what to do', () => {
    const source = readFileSync(join(ROOT, 'lib/errors.ts'), 'utf8')
    const [, union = ''] = /export type VfioErrorCode =(.*?)\n\n/s.exec(source) ?? []
    const codes = [...union.matchAll(/'(ERR_VFIO_\w+)'/g)].map(([, code = '']) => code)
    assert(codes.length > 30)
    const text = readFileSync(join(ROOT, 'docs/trouble/errors.md'), 'utf8')
    const sections = [
      ...text.matchAll(/^## (\w+)\n\n(.+?)\n\n\*\*What to do\.\*\* (.+?)\n\n<!-- messages: (\w+) -->/gms),
    ]
    assert.deepEqual(sections.map(([, code]) => code).sort(), codes.sort())
    for (const [, code, , , mark] of sections) assert.equal(mark, code)
  })
})

describe('the page of commands', () => {
  const text = readFileSync(join(ROOT, 'docs/reference/commands.md'), 'utf8')
  const statuses = readFileSync(join(ROOT, 'lib/cli/exit.ts'), 'utf8')

  it('has every command that there is', () => {
    const { stdout } = spawnSync(process.execPath, [join(ROOT, 'dist/cli/main.js'), '--help'], {
      encoding: 'utf8',
    })
    const names = [...stdout.slice(stdout.indexOf('Commands:')).matchAll(/^ {2}([a-z]+)\b/gm)].map(
      ([, name = '']) => name,
    )
    assert(names.length > 15)
    assert.deepEqual(
      names.filter((name) => !text.includes(`\`vfio ${name}`)),
      [],
    )
  })

  it('has the codes that are wrong usage', () => {
    const codes = [...statuses.matchAll(/^ {2}(ERR_\w+): WRONG_USAGE,$/gm)].map(([, code = '']) => code)
    assert(codes.length > 3)
    const [said = ''] = /those of wrong usage are .*? are 1\./s.exec(text) ?? []
    assert.deepEqual([...said.matchAll(/ERR_\w+/g)].map(([code]) => code).sort(), codes.sort())
  })
})

describe('a session on a page', () => {
  it('is taken apart into commands', () => {
    const text = '$ vfio list\nGROUP\n# vfio bind 01:00.0   # takes it\n0000:01:00.0 is bound\n'
    assert.deepEqual(entriesOf({ text }), [
      { prompt: '$', command: 'vfio list', output: 'GROUP' },
      { prompt: '#', command: 'vfio bind 01:00.0', output: '0000:01:00.0 is bound' },
    ])
  })

  it('is filled in between marks, and nowhere else', () => {
    const text = 'before\n<!-- x: a b -->\nold\n<!-- /x -->\nafter\n'
    assert.equal(
      fill(text, 'x', (argument) => argument.toUpperCase()),
      'before\n<!-- x: a b -->\n\nA B\n<!-- /x -->\nafter\n',
    )
    assert.equal(new Page('p.md', text).anchors.size, 0)
  })
})
