import { type Check, diagnose, type Snapshot } from '../index.js'
import { colour, print, toJson, wrap } from './output.js'
import { NOT_READY } from './status.js'

const MARKS = { ok: colour.good('✓'), warn: colour.doubtful('!'), fail: colour.bad('✗') }

/** `vfio doctor`: is this host ready, and what to do where it is not. */
export function doctor(seen: Snapshot, { json = false }: { json?: boolean }): number {
  const diagnosis = diagnose(seen)
  const lines = diagnosis.checks.map(renderCheck)
  const verdict = diagnosis.ready
    ? colour.good('This host is ready for VFIO.')
    : colour.bad('This host is not ready for VFIO.')
  print(json ? toJson(diagnosis) : `${lines.join('\n')}\n\n${verdict}\n`)
  return diagnosis.ready ? 0 : NOT_READY
}

function renderCheck({ name, status, detail, cure }: Check): string {
  const line = wrap(detail, 26, `${MARKS[status]} ${name.padEnd(23)} `)
  return cure === null ? line : `${line}\n${wrap(cure, 28, `${' '.repeat(26)}→ `)}`
}
