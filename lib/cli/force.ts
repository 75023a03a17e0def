import { type HostUse, VfioError } from '../index.js'

const KINDS: readonly HostUse['kind'][] = ['mount', 'swap', 'holder', 'network', 'display', 'other']

/** The kinds of use that `--force` names. */
export function forced(kinds: readonly string[] = []): HostUse['kind'][] {
  return kinds.map((kind) => {
    const known = KINDS.find((name) => name === kind)
    if (known) return known
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', `--force takes one of ${KINDS.join(', ')}, not ${kind}`)
  })
}
