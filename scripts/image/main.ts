// Builds the container image of the device plugin: npm run image -- [options]
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { messageOf } from '../lab/errors.js'
import { makeContext, version } from './context.js'

const USAGE = `usage: npm run image [-- OPTION…] [-- ARGUMENT…]

Builds the image of the device plugin for this processor, from what was built of this checkout.

  --with PROGRAM   what builds it: buildah, podman or docker (default: buildah)
  --tag NAME       what it is called (default: vfio-device-plugin:${version()})
  --base IMAGE     an image with Node and glibc, in place of that of the Containerfile
  --context DIR    make its context there, and build nothing

Arguments behind a second -- are the program's.`

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      with: { type: 'string', default: 'buildah' },
      tag: { type: 'string', default: `vfio-device-plugin:${version()}` },
      base: { type: 'string' },
      context: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    console.log(USAGE)
    return 0
  }
  const say = (line: string) => process.stderr.write(`image: ${line}\n`)
  if (values.context !== undefined) {
    await makeContext(values.context, say)
    return 0
  }
  const directory = mkdtempSync(join(tmpdir(), 'vfio-image-'))
  try {
    await makeContext(directory, say)
    const args = ['build', '--tag', values.tag, '--build-arg', `VERSION=${version()}`]
    if (values.base !== undefined) args.push('--build-arg', `BASE=${values.base}`)
    const child = spawn(values.with, [...args, ...positionals, directory], { stdio: 'inherit' })
    const [status] = await once(child, 'close')
    return Number(status ?? 1)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

try {
  process.exitCode = await main()
} catch (error) {
  console.error(`image: ${messageOf(error)}`)
  process.exitCode = 1
}
