// Run by each runtime with the package in a folder: looks at a small host, makes the addon throw, and tells which binary that was.
//   load.mjs PACKAGE SYSFS
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

const [directory, sysfs] = process.argv.slice(2)
const { Host, VfioContainer } = await import(join(directory, 'dist/index.js'))
const { devices } = new Host({ sysfs }).snapshot()
let refused
try {
  VfioContainer.open('/nowhere')
} catch (error) {
  refused = error.code
}
const mapped = readFileSync('/proc/self/maps', 'utf8').match(/prebuilds\/\S+/)?.[0]
const seen = [...devices.values()].map(({ address, vendor, device }) => ({ address, vendor, device }))
console.log(JSON.stringify({ arch: process.arch, mapped, refused, seen }))
