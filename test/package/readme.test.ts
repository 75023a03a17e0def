import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { transform } from 'esbuild'
import { allPages, type Block } from '../../scripts/docs/pages.js'
import { isMade } from '../../scripts/docs/update.js'
import { device, region } from '../native/bytes.js'
import { type FakeAnswer, OPENS, runSource } from '../native/fake.js'
import {
  DEVICE,
  fixture,
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

/** A sample of TypeScript on a page. */
interface Sample extends Block {
  readonly path: string
}

const samples: readonly Sample[] = allPages()
  .filter(({ path }) => !isMade(path))
  .flatMap(({ path, blocks }) => blocks.map((block) => ({ path, ...block })))
  .filter(({ language }) => language === 'ts')

const own = process.versions.node.split('.')[0] ?? ''
const LINES = [own, ...nodeLines]
const nodeOf = (line: string) => (line === own ? process.execPath : (nodeProgram(line) ?? assert.fail(line)))

/** What `await using` and `using` need, as V8 knows them. */
const knowsUsing = (line: string) => Number(line) >= 24

const uses = (sample: Sample) => /\busing \w+ =/.test(sample.text)

/** Those that look at a host and open a device; the others need more than stands for a kernel here. */
const programs = samples.filter((sample) => sample.path === 'README.md' || uses(sample))

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

  it('has samples of the library, and the pages have more', () => {
    assert(programs.length > 1)
    assert(samples.length > programs.length + 10)
  })

  it('and the pages say so where a sample is not for every line of Node that the package is for', async () => {
    const directory = scratchDirectory('samples')
    // Without its types, and in the syntax that it has.
    const files = await Promise.all(
      samples.map(async ({ path, line, text }) => {
        const file = join(directory, `${path.replaceAll(/[/.]/g, '-')}-${line}.mjs`)
        const { code } = await transform(text, { loader: 'ts', target: 'esnext', format: 'esm' })
        writeFileSync(file, code)
        return file
      }),
    )
    let without = 0
    for (const [index, { path, line: at, said }] of samples.entries()) {
      for (const line of LINES) {
        if (run('/', [nodeOf(line), '--check', files[index] ?? '']).status === 0) continue
        without++
        const where = `${path}:${at} does not parse on Node ${line}, and the text before does not say so`
        assert.match(said, new RegExp(`\\b${line}\\b.* compiler`), where)
      }
    }
    assert(without > 0, 'no sample has what some line of Node does not know')
  })

  it('has samples that compile against the package', () => {
    const files = programs.map((sample) => {
      const name = `sample-${sample.path.replaceAll(/[/.]/g, '-')}-${sample.line}.ts`
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
        assert.equal(stderr, '', `${sample.path}:${sample.line}`)
        assert.equal(code, 0, `${sample.path}:${sample.line}`)
        // The last thing that each of them prints is a register of the device.
        assert.match(stdout, /(^|\n)0\n$/, `${sample.path}:${sample.line}`)
      }
    })
  }
})
