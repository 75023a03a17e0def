import { VfioError } from '../errors.js'
import type { Snapshot } from '../sysfs/snapshot.js'

/** Whom nodes are to belong to, by name or number. */
export interface RuleOwner {
  readonly user?: string | undefined
  readonly group?: string | undefined
}

/** What may stand between the quotes of a rule: udev has neither a quote nor a `%` or `$` in names. */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.@-]*\$?$/

/**
 * A udev rule that gives a device's nodes to somebody whenever they appear. It finds them by the device's address, since
 * the numbers of groups and nodes may be others after the next boot. A group without an
 * IOMMU has a node of another name: the rule is for the kind of group that the device is in now.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`, `ERR_VFIO_BAD_ARGUMENT`
 */
export function grantRule(seen: Snapshot, address: string, { user, group }: RuleOwner): string {
  const [device, ...others] = seen.named(address)
  if (device === undefined || others.length > 0)
    return grantRule(seen, seen.device(address).address, { user, group })
  const named = 'uuid' in device ? device.uuid : device.address
  for (const name of [user, group]) {
    if (name !== undefined && (!NAME.test(name) || name.endsWith('$'))) {
      throw new VfioError(
        'ERR_VFIO_BAD_ARGUMENT',
        `${JSON.stringify(name.slice(0, 40))} cannot stand in a udev rule: use the number of the account`,
      )
    }
  }
  const to = [
    ...(user === undefined ? [] : [`OWNER="${user}"`]),
    ...(group === undefined ? [] : [`GROUP="${group}"`]),
    `MODE="${group === undefined ? '0600' : '0660'}"`,
  ].join(', ')
  const isNoIommu = seen.groups.some(({ group, noIommu }) => noIommu && group === device.group)
  // The number at the end of a name is %n, except where a name is nothing but a number.
  const [node, groupNumber] = isNoIommu ? ['noiommu-[0-9]*', '%n'] : ['[0-9]*', '%k']
  const members = `/sys/kernel/iommu_groups/${groupNumber}/devices/${named}`
  const lines = [
    `# ${named}: written by "vfio grant --udev", for /etc/udev/rules.d/60-vfio-grant.rules`,
    `SUBSYSTEM=="vfio", KERNEL=="${node}", TEST=="${members}", ${to}`,
    `SUBSYSTEM=="vfio-dev", KERNELS=="${named}", ${to}`,
    `SUBSYSTEM=="misc", KERNEL=="iommu", ${to}`,
  ]
  return `${lines.join('\n')}\n`
}
