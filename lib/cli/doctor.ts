import { type Check, type Diagnosis, diagnose, type Snapshot } from '../index.js'
import { answer, colour, wrap } from './output.js'
import { NOT_READY } from './status.js'

const MARKS = { ok: colour.good('✓'), warn: colour.doubtful('!'), fail: colour.bad('✗') }

/** `vfio doctor`: is this host ready, and what to do where it is not. */
export function doctor(seen: Snapshot, { json = false }: { json?: boolean }): number {
  const diagnosis = diagnose(seen)
  answer(diagnosis, json, render)
  return diagnosis.ready ? 0 : NOT_READY
}

function render({ checks, ready }: Diagnosis): string {
  const verdict = ready
    ? colour.good('This host is ready for VFIO.')
    : colour.bad('This host is not ready for VFIO.')
  return `${checks.map(renderCheck).join('\n')}\n\n${verdict}\n`
}

function renderCheck({ name, status, detail, cure }: Check): string {
  const line = wrap(detail, 26, `${MARKS[status]} ${name.padEnd(23)} `)
  return cure === null ? line : `${line}\n${wrap(cure, 28, `${' '.repeat(26)}→ `)}`
}
