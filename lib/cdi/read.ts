import { type CdiSpecification, cdiText, variableOf } from '../export/cdi.js'
import { isAddress, isUuid } from '../sysfs/address.js'

const OWN = /^\/dev\/vfio\/(?:(?:noiommu-)?\d+|devices\/vfio\d+)$/
const SHARED = /^\/dev\/(?:vfio\/vfio|iommu)$/

/**
 * What a file says that is ours to replace: to the last byte as `exportCdi` writes it. The format has no place for a mark, and
 * none for what a person would add. `null`: it is somebody else's, or was changed.
 */
export function ownSpecification(text: string): CdiSpecification | null {
  try {
    const written = rewritten(JSON.parse(text))
    return written !== null && cdiText(written) === text ? written : null
  } catch {
    return null
  }
}

/** The same made anew, of the parts that ours has. Whatever is of another form throws, or comes out different. */
function rewritten({ kind, devices, containerEdits }: CdiSpecification): CdiSpecification | null {
  const node = ({ path }: { readonly path: string }) => ({ path, permissions: 'rw' as const })
  const shared = containerEdits?.deviceNodes?.map(node)
  const made = devices.map(({ name, containerEdits: { env, deviceNodes = [] } }) => {
    const addresses = env?.[0]?.split('=')[1]
    return {
      name,
      containerEdits: {
        ...(addresses !== undefined && { env: [`${variableOf(name)}=${addresses}`] }),
        deviceNodes: deviceNodes.map(node),
      },
    }
  })
  const isOurs =
    made.every(({ name }) => isAddress(name) || isUuid(name)) &&
    made.every(({ containerEdits }) => containerEdits.deviceNodes.every(({ path }) => OWN.test(path))) &&
    (shared ?? []).every(({ path }) => SHARED.test(path))
  if (!isOurs) return null
  return {
    cdiVersion: '0.5.0',
    kind,
    devices: made,
    ...(shared && { containerEdits: { deviceNodes: shared } }),
  }
}

/**
 * The kinds that a file of others may have, which is JSON or YAML; none where that cannot be told. YAML is not understood
 * here, only searched: what is found too much is refused too much.
 */
export function kindsIn(text: string): readonly string[] {
  try {
    const { kind } = JSON.parse(text) as { kind?: unknown }
    return typeof kind === 'string' ? [kind] : []
  } catch {
    const found = text.matchAll(/(?:^|[{,])[ \t]*["']?kind["']?[ \t]*:\s*["']?([^\s"',}#]+)/gm)
    return [...found].map(([, kind = '']) => kind)
  }
}
