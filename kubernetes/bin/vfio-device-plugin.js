#!/usr/bin/env node
// In the repository as it is, unlike what is built: npm links a command once, whether its file is there or not.
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const main = new URL('../dist/main.js', import.meta.url)

if (existsSync(main)) await import(main.href)
else {
  const checkout = JSON.stringify(fileURLToPath(new URL('../..', import.meta.url)))
  process.stderr.write(
    `vfio-device-plugin: nothing was built yet: run \`npm run setup\` in ${checkout}, and then this again\n`,
  )
  process.exitCode = 1
}
