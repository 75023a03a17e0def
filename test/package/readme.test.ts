import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { transform } from 'esbuild'
import { device, region } from '../native/bytes.js'
import { type FakeAnswer, OPENS, runSource } from '../native/fake.js'
import {
  DEVICE,
  fixture,
  manifest,
  nodeLines,
  nodeProgram,
  PATIENCE,
  ROOT,
  run,
  scratchDirectory,
  succeed,
  tool,
  user,
} from './support.js'

interface Sample {
  /** Its first line in the file. */
  readonly line: number
  readonly language: string
  readonly text: string
  /** The paragraph before it. */
  readonly said: string
}

function samplesOf(path: string): Sample[] {
  const text = readFileSync(join(ROOT, path), 'utf8')
  return [...text.matchAll(/^```(\w*)\n(.*?)^```$/gms)].map(({ 1: language = '', 2: code = '', index }) => {
    const before = text.slice(0, index).trimEnd()
    return {
      line: before.split('\n').length + 2,
      language,
      text: code,
      said: before.slice(before.lastIndexOf('\n\n') + 2).replaceAll('\n', ' '),
    }
  })
}

const samples = samplesOf('README.md')
const programs = samples.filter(({ language }) => language === 'ts')

const own = process.versions.node.split('.')[0] ?? ''
const LINES = [own, ...nodeLines]
const nodeOf = (line: string) => (line === own ? process.execPath : (nodeProgram(line) ?? assert.fail(line)))

/** What `await using` and `using` need, as V8 knows them. */
const knowsUsing = (line: string) => Number(line) >= 24

const uses = (sample: Sample) => /\busing \w+ =/.test(sample.text)

/** A place in the memory that stands for the device, as vfio-pci has it for its second region. */
const OFFSET = 2n ** 40n
const REGION = 0x4000
const KERNEL: readonly FakeAnswer[] = [
  OPENS,
  { call: 'deviceInfo', bytes: device(20, 3, 9, 5, 0).done() },
  { call: 'regionInfo', bytes: region(32, 3, 0, BigInt(REGION), OFFSET).done() },
]

/** The sample as the body of a program that looks at the fixture, where it would look at this machine. */
async function onFixture(sample: Sample, line: string): Promise<string> {
  const body = sample.text.replace(/^import (\{[^}]*\}) from 'vfio'$/gm, 'const $1 = given')
  assert.doesNotMatch(body, /^import /m)
  const { code } = await transform(`{\n${body}\n}`, {
    loader: 'ts',
    format: 'esm',
    ...(!knowsUsing(line) && uses(sample) && { target: 'node20' }),
  })
  return `
class Host extends vfio.Host {
  constructor(options = input.trees) { super(options) }
}
async function openDevice(address, options) {
  const opened = await vfio.openDevice(address, { seen: new Host().snapshot(), ...options })
  fs.truncateSync(memoryOf(input.device), input.end)
  return opened
}
const given = { ...vfio, Host, openDevice }
${code}
`
}

describe('README', function () {
  this.timeout(PATIENCE)

  it('has samples of the library', () => assert(programs.length > 1))

  it('says so where a sample is not for every line of Node that the package is for', () => {
    const parses = (sample: Sample, line: string) => {
      const file = join(scratchDirectory('samples'), `${sample.line}.mjs`)
      writeFileSync(file, sample.text)
      return run('/', [nodeOf(line), '--check', file]).status === 0
    }
    for (const sample of programs) {
      const without = LINES.filter((line) => !parses(sample, line))
      for (const line of without) {
        const where = `README.md:${sample.line} does not parse on Node ${line}, and the text before does not say so`
        assert.match(sample.said, new RegExp(`\\b${line}\\b.* compiler`), where)
      }
    }
  })

  it('has samples that compile against the package', () => {
    const files = programs.map((sample) => {
      const name = `sample-${sample.line}.ts`
      writeFileSync(join(user(), name), sample.text)
      return name
    })
    const types = ['--types', 'node', '--typeRoots', tool('@types')]
    const options = ['--noEmit', '--strict', '--target', 'es2022', '--module', 'nodenext', ...types]
    const tsc = join(ROOT, 'node_modules/typescript/bin/tsc')
    succeed(user(), [process.execPath, tsc, ...options, '--moduleDetection', 'force', ...files])
  })

  for (const line of LINES) {
    it(`has samples that run on Node ${line}`, async () => {
      for (const sample of programs) {
        const input = { trees: fixture(), device: DEVICE, end: Number(OFFSET) + REGION }
        const { code, stdout, stderr } = await runSource(await onFixture(sample, line), KERNEL, {
          input,
          command: (source) => [nodeOf(line), '--input-type=module', '-e', source],
        })
        assert.equal(stderr, '', `README.md:${sample.line}`)
        assert.equal(code, 0, `README.md:${sample.line}`)
        // The last thing that each of them prints is a register of the device.
        assert.match(stdout, /(^|\n)0\n$/, `README.md:${sample.line}`)
      }
    })
  }

  it('names commands that there are', () => {
    const help = succeed(ROOT, [process.execPath, 'bin/vfio.js', '--help']).stdout
    const commands = new Set([...help.matchAll(/^ {2}([a-z]+)/gm)].map(([, name]) => name))
    const lines = samples.flatMap(({ language, text }) =>
      language === 'console' || language === 'sh' ? text.split('\n') : [],
    )
    let named = 0
    for (const line of lines) {
      const [, name] = /^(?:[$#] )?(?:npx )?vfio ([a-z]+)/.exec(line) ?? []
      if (name !== undefined) assert(commands.has(name), line)
      const [, script] = /^(?:[$#] )?npm run (?:-s )?([\w:]+)/.exec(line) ?? []
      if (script !== undefined) assert(script in manifest.scripts, line)
      if (name !== undefined || script !== undefined) named++
    }
    assert(named > 5)
  })
})
