import type { Capabilities } from '../../lib/sysfs/config.js'
import { hex } from './facts.js'

const sign = (value: boolean) => (value ? '+' : '-')

/** The same of what the library has read, for those facts that it has. */
export function capabilityFacts(address: string, found: Capabilities): [string, string][] {
  const facts: [string, string][] = []
  const fact = (name: string, value: string) => facts.push([`${address} ${name}`, value])
  fact(
    'capabilities',
    [...found.standard, ...found.extended].map(({ offset }) => hex(offset, offset < 0x100 ? 2 : 3)).join(' '),
  )
  const { pcie, msi, msix, pm, sriov } = found
  if (pcie) fact('FLR', sign(pcie.flr))
  if (msi) fact('MSI', [sign(msi.enabled), msi.vectors, sign(msi.maskable), sign(msi.address64)].join(' '))
  if (msix) fact('MSI-X', `${sign(msix.enabled)} ${msix.vectors}`)
  if (pm) fact('NoSoftRst', sign(pm.noSoftReset))
  if (sriov) fact('total VFs', String(sriov.totalVfs))
  return facts
}
