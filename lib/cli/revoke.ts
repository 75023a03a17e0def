import { type Revocation, revoke as takeBack } from '../index.js'
import { type Declare, journal, json, run } from './options.js'
import { answer, note } from './output.js'

interface RevokeOptions {
  readonly journal?: string
  readonly json?: boolean
}

/** `vfio revoke`: gives a device's nodes back to whom they belonged before. */
export const revoke: Declare = (vfio) => {
  vfio
    .command('revoke')
    .description('give the nodes of a device back to whom they belonged before the grant')
    .argument('<address>', 'PCI address, like 59:00.0')
    .addOption(journal())
    .addOption(json())
    .action(run(act))
}

async function act(address: string, { journal, json = false }: RevokeOptions): Promise<number> {
  const report = await takeBack(address, { journal })
  for (const line of json ? [] : report.changed) note(`vfio: ${line}`)
  for (const line of report.holders) {
    note(
      `vfio: ${report.address}: ${line}, and keeps it until it closes it: end that program to take the device back`,
    )
  }
  answer(report, json, render)
  return 0
}

function render({ address, restored, kept }: Revocation): string {
  const lines = [
    ...restored.map((path) => `${path} is as it was before the grant`),
    ...kept.map((path) => `${path} is left alone: another grant needs it, or it is gone`),
  ]
  return `${lines.join('\n') || `${address} is granted to nobody now`}\n`
}
