import {
  builtinModules,
  detectInitramfs,
  type Host,
  type Initramfs,
  type PersistBy,
  type PersistPlan,
  type PersistReport,
  planPersistence,
  removePersistence,
  type Snapshot,
  VfioError,
  writePersistence,
} from '../index.js'
import { answer, note, print, toJson } from './output.js'

export interface PersistCommandOptions {
  readonly by?: PersistBy
  readonly initramfs?: Initramfs | 'auto'
  readonly write?: boolean
  readonly remove?: boolean
  readonly root?: string
  readonly json?: boolean
}

export const INITRAMFS_CHOICES = ['auto', 'initramfs-tools', 'dracut', 'mkinitcpio', 'none'] as const

/** `vfio persist`: prints, writes or takes away what binds devices at boot. */
export async function persist(
  look: () => Snapshot,
  paths: Host['paths'],
  addresses: readonly string[],
  options: PersistCommandOptions,
): Promise<number> {
  const { root, write = false, remove = false, json = false } = options
  if (remove) {
    if (write || addresses.length > 0 || options.by || options.initramfs) {
      throw new VfioError('ERR_VFIO_BAD_ARGUMENT', '--remove takes everything away: give it alone')
    }
    const report = await removePersistence({ root })
    answer(report, json, renderReport)
    return 0
  }
  const wanted = options.initramfs ?? 'auto'
  const initramfs = wanted === 'auto' ? detectInitramfs({ root }) : wanted
  const plan = planPersistence(look(), addresses, {
    by: options.by,
    initramfs,
    builtin: builtinModules(paths.modules),
  })
  if (!json) for (const warning of plan.warnings) note(`vfio: ${warning}`)
  if (!write) {
    // The text of files, which has line ends, is made of checked words alone.
    print(json ? toJson(plan) : renderPlan(plan))
    return 0
  }
  const report = await writePersistence(plan, { root })
  answer({ plan, report }, json, (done) => renderReport(done.report))
  return 0
}

function renderPlan({ files, rebuild }: PersistPlan): string {
  const parts = files.map(
    ({ path, content, kind }) => `# ${path}${kind === 'block' ? ' (added to it)' : ''}\n${content}`,
  )
  if (rebuild) parts.push(`# then: ${rebuild}\n`)
  return parts.join('\n')
}

function renderReport({ written, removed, unchanged, backups, dropped, rebuild }: PersistReport): string {
  const lines = [
    ...written.map((path) => `wrote ${path}`),
    ...backups.map((path) => `kept what was there as ${path}`),
    ...removed.map((path) => `took the lines of vfio out of ${path}`),
    ...dropped.map((address) => `${address} does not last over boot any more`),
  ]
  if (lines.length === 0) {
    return unchanged.length > 0
      ? 'Everything is written already: nothing was changed.\n'
      : 'There was nothing to change.\n'
  }
  if (rebuild) lines.push(`Now run: ${rebuild}`)
  return `${lines.join('\n')}\n`
}
