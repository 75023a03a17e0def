import { isVfioDriver, type PciDevice } from '../sysfs/devices.js'
import type { UseFacts } from '../sysfs/use.js'
import type { OpenFile } from '../sysfs/use-processes.js'
import type { Finding } from './host-use.js'
import { holders, stopping } from './uses-text.js'

/** Nodes of the device that processes have open: of graphics, sound, serial ports, USB devices, … */
export function nodeUses({ nodes, processes }: UseFacts, { address, driver }: PciDevice): Finding[] {
  return nodes.flatMap(({ node, functions }) => {
    // Those of VFIO have findings of their own.
    const isOurs = functions.includes(address) && !node.startsWith('vfio/')
    const openers = isOurs ? processes.open.filter((file) => file.node === node) : []
    if (openers.length === 0) return []
    const kind = /^(dri\/|nvidia\d)/.test(node) ? 'display' : 'holder'
    // A desktop has every keyboard open, and loses nothing without it.
    const severity = node.startsWith('input/') ? 'warns' : 'blocks'
    const hangs = waitsForClose(node, driver)
    const what = `/dev/${node} is open in ${holders(openers)}`
    return [{ kind, what, severity, ...(hangs && { hangs }), ...stopping(openers, kind) }]
  })
}

/**
 * Does a driver's unbinding wait for the last close of such a node, without telling those who have it open? That of
 * NVIDIA's own driver (`nv_pci_remove_helper` in its sources), of I2C adapters (`i2c_del_adapter`) and of DVB devices
 * (`dvb_frontend_stop`, `dvb_dmxdev_release`) does.
 */
const waitsForClose = (node: string, driver: string | null) =>
  /^(nvidia\d|i2c-|dvb\/)/.test(node) || (driver === 'nvidia' && node.startsWith('dri/'))

/** Who has the device or its group open through VFIO. */
export function vfioUses(
  { processes, enabled }: Pick<UseFacts, 'processes' | 'enabled'>,
  device: Pick<PciDevice, 'address' | 'group' | 'driver' | 'vfioDevice'>,
): Finding[] {
  const { address, group, vfioDevice } = device
  const { open, complete } = processes
  const blocks = (what: string, openers: readonly OpenFile[] = []): Finding => ({
    kind: 'vfio',
    what,
    severity: 'blocks',
    ...stopping(openers, 'vfio'),
  })
  const at = (...nodes: readonly string[]) => open.filter(({ node }) => node !== null && nodes.includes(node))
  const findings: Finding[] = []
  const byGroup = group === null ? [] : at(`vfio/${group}`, `vfio/noiommu-${group}`)
  if (byGroup.length > 0) findings.push(blocks(`group ${group} is open in ${holders(byGroup)}`, byGroup))
  const byNode = vfioDevice === null ? [] : at(`vfio/devices/${vfioDevice}`)
  if (byNode.length > 0) findings.push(blocks(`${vfioDevice} is open in ${holders(byNode)}`, byNode))
  const pids = new Set([...byGroup, ...byNode].map(({ pid }) => pid))
  const nameless = open.filter((file) => file.function === address && !pids.has(file.pid))
  if (nameless.length > 0) findings.push(blocks(`it is open through VFIO in ${holders(nameless)}`, nameless))
  // A driver of its own that gives devices to VFIO has them enabled for itself.
  if (findings.length > 0 || !isVfioDriver(device.driver) || !enabled.includes(address)) return findings

  const candidates = open.filter(
    (file) => file.node === null && file.function === null && !hasGroup(open, file),
  )
  if (candidates.length > 0) return [blocks(`it is open through VFIO, it seems in ${holders(candidates)}`)]
  if (complete !== true) {
    const unseen = blocks('it is open through VFIO in a process that could not be seen: root sees more')
    return [{ ...unseen, inferred: true }]
  }
  // A former driver may have left it enabled: no reason to refuse.
  const what = 'it is enabled as if it were open through VFIO, though no process in sight has it open'
  return [{ kind: 'vfio', what, severity: 'warns', inferred: true }]
}

/** A nameless VFIO device belongs to the group that its process has open, where it has one. */
const hasGroup = (open: readonly OpenFile[], { pid }: OpenFile) =>
  open.some((file) => file.pid === pid && /^vfio\/(noiommu-)?\d+$/.test(file.node ?? ''))
