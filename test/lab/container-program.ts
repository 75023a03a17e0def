// Inside a container: opens all that it was given, says what it found, and keeps it until its input ends where that is asked for.
import { readdirSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { openDevices, VfioError } from 'vfio'

/** What the program says, a line of JSON. */
export interface Found {
  /** The addresses by the variables that tell them. */
  readonly given: Readonly<Record<string, string>>
  /** Everything below /dev/vfio, and /dev/iommu. */
  readonly nodes: readonly string[]
  readonly backend?: string
  /** The first words of BAR 0 of each. */
  readonly identities?: readonly number[]
  /** Why they could not be opened. */
  readonly code?: string
}

const given = Object.fromEntries(
  Object.entries(process.env).flatMap(([name, value = '']) =>
    name.startsWith('VFIO_ADDRESSES_') ? [[name, value]] : [],
  ),
)
const nodes = [
  ...readdirSync('/dev/vfio', { recursive: true, encoding: 'utf8' }).map((name) => `vfio/${name}`),
  ...readdirSync('/dev').filter((name) => name === 'iommu'),
].sort()
const say = (found: Found) => console.log(JSON.stringify(found))

try {
  const opened = await openDevices(Object.values(given).flatMap((addresses) => addresses.split(' ')))
  const identities = opened.devices.map((device) => {
    device.config.setCommand({ memory: true })
    return device.region('bar0').read32(0)
  })
  say({ given, nodes, backend: opened.backend, identities })
  if (process.argv.includes('hold')) await text(process.stdin)
  await opened.close()
} catch (error) {
  if (!(error instanceof VfioError)) throw error
  say({ given, nodes, code: error.code })
}
