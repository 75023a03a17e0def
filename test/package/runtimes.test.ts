import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  fixture,
  look,
  manifest,
  nodeLines,
  nodeProgram,
  program,
  run,
  scratchDirectory,
  sees,
  tool,
  user,
} from './support.js'

const PROCESSOR = process.arch === 'arm64' ? { bun: 'aarch64', deno: 'arm64' } : { bun: 'x64', deno: 'x64' }

/** The programs that run JavaScript, by name, with what stands before a file. */
const RUNTIMES: Readonly<Record<string, () => readonly string[]>> = {
  [`Node ${process.versions.node.split('.')[0]}, which runs the tests`]: () => [process.execPath],
  ...Object.fromEntries(
    nodeLines.map((line) => [
      `Node ${line}`,
      () => {
        const program = nodeProgram(line)
        assert(program, `Node ${line} could not be fetched`)
        return [program]
      },
    ]),
  ),
  Bun: () => [tool(`@oven/bun-linux-${PROCESSOR.bun}/bin/bun`)],
  Deno: () => [tool(`@deno/linux-${PROCESSOR.deno}-glibc/deno`), 'run', '--quiet', '--allow-all'],
}

describe('the installed package', function () {
  this.timeout(120_000)

  before(() => {
    writeFileSync(join(user(), 'look.mjs'), program())
    writeFileSync(
      join(user(), 'look.cjs'),
      program()
        .replace(/^import (.*) from (.*)$/gm, 'const $1 = require($2)')
        .replaceAll(' as ', ': '),
    )
  })

  for (const [name, command] of Object.entries(RUNTIMES)) {
    it(`runs in ${name}, imported and required, and so does its command`, () => {
      // Deno keeps what it compiled in the user's home.
      const own = { DENO_DIR: scratchDirectory('deno'), DENO_NO_UPDATE_CHECK: '1' }
      for (const file of ['look.mjs', 'look.cjs']) sees(look(user(), [...command(), file], own))
      const path = join(user(), 'node_modules/vfio/bin/vfio.js')
      const version = run(user(), [...command(), path, '--version'], own)
      assert.equal(version.stdout.trim(), manifest.version, version.stderr)
      const listed = run(user(), [...command(), path, 'list', '--sysfs', fixture().sysfs], own)
      assert.match(listed.stdout, /^GROUP ADDRESS .*\n +7 0000:59:00\.0 /, listed.stderr)
      assert.equal(listed.status, 0)
    })
  }

  it('runs on each line of Node that it promises', () => {
    const oldest = /^>=(\d+)/.exec(manifest.engines.node)?.[1]
    const tested = [process.versions.node.split('.')[0], ...nodeLines]
    // Every second number is a line that is kept up for long.
    for (let line = Number(oldest); line <= Number(nodeLines.at(-1)); line += 2) {
      assert(tested.includes(String(line)), `Node ${line}`)
    }
  })
})
