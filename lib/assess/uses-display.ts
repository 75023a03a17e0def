import type { PciDevice } from '../sysfs/devices.js'
import type { UseFacts } from '../sysfs/use.js'
import type { Finding } from './uses.js'
import { several } from './uses-text.js'

const FRAME_BUFFER = 'frame buffer device'

/** What a device shows: the console of the host, a picture on a screen, the boot display. */
export function displayUses({ display, consoles }: UseFacts, { address, bootVga }: PciDevice): Finding[] {
  const findings: Finding[] = []
  const add = (severity: Finding['severity'], what: string) =>
    findings.push({ kind: 'display', what, severity })
  const frames = display.frameBuffers
    // What the firmware set up is on the boot display.
    .filter(({ functions }) => functions.includes(address) || (functions.length === 0 && bootVga))
    .map(({ name }) => name)
  const first = display.frameBuffers.map(({ name }) => name).sort(byNumber)[0]
  for (const name of frames) {
    // The kernel draws its terminals on the first one until somebody maps them elsewhere.
    if (name === first && display.terminals.includes(FRAME_BUFFER)) {
      add('blocks', `${name} shows the terminals of the host`)
    } else add('warns', `it has the frame buffer ${name}`)
  }
  const text = display.terminals.find((driver) => driver !== FRAME_BUFFER && !driver.startsWith('dummy'))
  if (bootVga && text !== undefined)
    add('blocks', `the boot display shows the terminals of the host (${text})`)
  for (const { name, functions } of consoles) {
    if (functions.includes(address)) add('blocks', `${name} is a console of the kernel`)
  }
  const screens = display.screens.filter(({ functions }) => functions.includes(address))
  if (screens.length > 0) {
    add('warns', `it shows a picture at ${several(screens.map(({ connector }) => connector))}`)
  }
  if (bootVga && findings.length === 0) add('warns', 'it is the boot display')
  return findings
}

const byNumber = (a: string, b: string) => a.length - b.length || (a < b ? -1 : 1)
