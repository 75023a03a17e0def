#!/usr/bin/env node
// In the repository as it is, unlike what is built: npm links a command once, whether its file is there or not. CommonJS, as
// what is built is: loading ES modules takes as long to begin as a small command takes.
const { existsSync } = require('node:fs')
const { join } = require('node:path')

const main = join(__dirname, '../dist/cli/main.js')

if (existsSync(main)) require(main)
else {
  const checkout = JSON.stringify(join(__dirname, '../'))
  process.stderr.write(
    `vfio: nothing was built yet: run \`npm run setup\` in ${checkout}, and then this again\n`,
  )
  process.exitCode = 1
}
