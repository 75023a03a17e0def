import type { HostUse } from './uses.js'

/**
 * Why a use keeps a device from being taken from its driver, with what to do; `null` where it does not, or where this kind
 * is to be disturbed all the same.
 * @param driver of the device
 */
export function refusalOf(
  use: HostUse,
  driver: string | null,
  force: readonly HostUse['kind'][] = [],
): string | null {
  const { kind, what } = use
  const how = use.stop === undefined ? '' : ` (${use.stop})`
  if (use.severity === 'warns') return null
  if (use.hangs) {
    return `${what}: end that first${how}, since ${driver} lets the device go only then, and its unbinding would hang until it does${stopsFor(driver)}`
  }
  if (kind === 'vfio') return `${what}: close it there first${how}, since unbinding it would hang`
  if (force.includes(kind)) return null
  if (use.vital) return `${what}: the host cannot do without it, so it has to stay`
  if (use.unknown) return `${what}, or accept the risk with --force ${kind}`
  return `${what}: free it first${how}, or accept the loss with --force ${kind}`
}

/** What keeps a driver's devices open, besides the program that is seen. */
const stopsFor = (driver: string | null) =>
  driver === 'nvidia'
    ? ' (the display manager, nvidia-persistenced, CUDA programs; then "modprobe -r nvidia_drm nvidia_modeset nvidia_uvm")'
    : ''
