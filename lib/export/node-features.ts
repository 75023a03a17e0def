import { builtin } from '../builtin.js'
import { VfioError } from '../errors.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { exportInventory } from './inventory.js'
import { checkResourceName } from './resource-name.js'

/** Labels of a Kubernetes node. */
export interface NodeFeatures {
  /** By their names, in the domain `vfio.feature.node.kubernetes.io`. */
  readonly labels: Readonly<Record<string, string>>
  /** The same as a feature file of Node Feature Discovery: a line `name=value` for each. */
  readonly text: string
}

export interface NodeFeaturesOptions {
  /** How many devices of each resource the node has, by the resource's name (`example.com/gpu`). */
  readonly resources?: Readonly<Record<string, number>> | undefined
}

/** Below the one domain of kubernetes.io that NFD lets others add to, and that no configuration of it denies. */
const DOMAIN = 'vfio.feature.node.kubernetes.io'

/**
 * What a scheduler may ask of a host: `iommu` (its kind, or `none`; left out where it is not known), `groups` (how many
 * can be opened now), and for each resource how many devices there are of it, by `DOMAIN_NAME` of the resource. Groups
 * of the no-IOMMU mode do not count.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` for what is no name of a resource, and for a count that is none
 */
export function exportNodeFeatures(
  seen: Snapshot,
  { resources = {} }: NodeFeaturesOptions = {},
): NodeFeatures {
  const { host, groups } = exportInventory(seen)
  const ready = groups.filter(({ verdict, noIommu }) => verdict === 'ready' && !noIommu)
  const { present, kinds } = host.iommu
  const labels: Record<string, string> = {}
  const add = (name: string, value: string) => {
    labels[`${DOMAIN}/${name}`] = value
  }
  add('groups', String(ready.length))
  if (present !== null) add('iommu', present ? fitting(kinds[0] ?? 'true') : 'none')
  for (const [resource, count] of Object.entries(resources)) {
    checkResourceName(resource)
    if (!Number.isSafeInteger(count) || count < 0) {
      throw new VfioError(
        'ERR_VFIO_BAD_ARGUMENT',
        `${resource} has ${count} devices: expected a whole number`,
      )
    }
    add(fitting(resource.replace('/', '_')), String(count))
  }
  const text = Object.entries(labels).map(([name, value]) => `${name}=${value}\n`)
  return { labels, text: text.join('') }
}

/** The longest name, and the longest value, of a label. */
const LONGEST = 63

/** A text in the grammar of labels: what is too long ends in a digest of all of it, so that two stay two. */
function fitting(text: string): string {
  const plain = text.replace(/[^A-Za-z0-9._-]/g, '_').replace(/^[^A-Za-z0-9]+|[^A-Za-z0-9]+$/g, '')
  if (plain.length <= LONGEST) return plain || 'unknown'
  const { createHash } = builtin('node:crypto')
  const digest = createHash('sha256').update(text).digest('hex').slice(0, 8)
  return `${plain.slice(0, LONGEST - digest.length - 1)}-${digest}`
}
