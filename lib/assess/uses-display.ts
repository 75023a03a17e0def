import { isWithVfio, type PciDevice } from '../sysfs/devices.js'
import { isKernelSince } from '../sysfs/kernel.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import type { Finding } from './host-use.js'
import { onceFor } from './once.js'
import { several } from './uses-text.js'

const FRAME_BUFFER = 'frame buffer device'

/** What a device shows: the console of the host, a picture on a screen, the boot display. */
export function displayUses(seen: Snapshot, device: PciDevice): Finding[] {
  const { address, bootVga } = device
  const { display, consoles } = seen.use
  const findings: Finding[] = []
  const add = (severity: Finding['severity'], what: string) =>
    findings.push({ kind: 'display', what, severity })
  const held = memoryUses(seen, device)
  findings.push(...held)
  const frames = display.frameBuffers
    // What the firmware set up is on the boot display, or where its memory lies.
    .filter(
      ({ functions }) =>
        functions.includes(address) || (functions.length === 0 && (bootVga || held.length > 0)),
    )
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

/** What frame buffers that the firmware left are called: by `sysfb`, by the drivers of fbdev and those of DRM. */
const FIRMWARE_FRAME_BUFFER =
  /^(?:bootfb|(?:efi|vesa|simple|of)(?:fb|drm)|(?:efi|vesa|simple)-framebuffer.*)$/i

const hex = (value: number) => `0x${value.toString(16)}`

/**
 * Who holds memory that VFIO has to have for itself (`vfio_pci_core_mmap` → `pci_request_selected_regions`). Since 6.0 vfio-pci
 * takes frame buffers of the firmware off a device of class 0300 when it binds (`vfio_pci_vga_init`), and off no other.
 */
function memoryUses(seen: Snapshot, device: PciDevice): Finding[] {
  const { use, host } = seen
  const findings: Finding[] = []
  for (const { function: owner, bar, name, start, end } of use.memory.held) {
    if (owner !== device.address || !FIRMWARE_FRAME_BUFFER.test(name)) continue
    const where = `the firmware's frame buffer (${name}) holds ${hex(start)}–${hex(end)} of its BAR ${bar}`
    const isVga = device.class >>> 8 === 0x0300
    const frees = isVga && isKernelSince(host.kernel, 6, 0) && !isWithVfio(device)
    const driver = /drm$/i.test(name)
      ? 'initcall_blacklist=simpledrm_platform_driver_init'
      : 'initcall_blacklist=sysfb_init'
    findings.push(
      frees
        ? { kind: 'display', severity: 'warns', what: `${where}, until vfio-pci binds and takes it off` }
        : {
            kind: 'display',
            severity: 'blocks',
            what: `${where}, and a guest would find that BAR taken: unbind simple-framebuffer.0 (or efi-framebuffer.0) from its platform driver, or boot with ${driver}`,
          },
    )
  }
  const isDisplay = device.class >>> 16 === 0x03
  const lost = isDisplay && use.memory.complete !== true ? lostFrameBuffers(seen, null) : []
  if (lost.length > 0) {
    const cure = use.memory.complete === null ? 'this takes /proc/iomem' : 'root sees it'
    findings.push({
      kind: 'display',
      severity: 'blocks',
      what: `whether the firmware's frame buffer (${several(lost)}) is on it could not be seen, since no device is the boot display: ${cure}`,
      unknown: true,
    })
  } else if (isDisplay && use.memory.complete === false) {
    const what = "whether the firmware's frame buffer holds its memory could not be seen: root sees it"
    findings.push({ kind: 'display', severity: 'warns', what })
  }
  return findings
}

/** Frame buffers that the firmware set up where nothing says on which device: not even the boot display is known. */
const lostFrameBuffers = onceFor(({ use, devices }: Snapshot, _all: null): readonly string[] =>
  devices.some(({ bootVga }) => bootVga)
    ? []
    : use.display.frameBuffers.filter(({ functions }) => functions.length === 0).map(({ name }) => name),
)

const byNumber = (a: string, b: string) => a.length - b.length || (a < b ? -1 : 1)
