// Prints the directory of a root file system with Node, made of Debian's packages: what the image is built on where there is
// no registry of images.
import { messageOf } from '../lab/errors.js'
import { findHost } from '../lab/hosts.js'
import { rootFor } from '../lab/root.js'

try {
  console.log(await rootFor(findHost(undefined), (line) => process.stderr.write(`image: ${line}\n`)))
} catch (error) {
  console.error(`image: ${messageOf(error)}`)
  process.exitCode = 1
}
