import { type Check, type Diagnosis, diagnose } from '../index.js'
import { NOT_READY } from './exit.js'
import { type Common, type Declare, json, look, run, sysfs } from './options.js'
import { answer, colour, wrap } from './output.js'

const MARKS = { ok: colour.good('✓'), warn: colour.doubtful('!'), fail: colour.bad('✗') }

/** `vfio doctor`: is this host ready, and what to do where it is not. */
export const doctor: Declare = (vfio) => {
  vfio
    .command('doctor')
    .description('is this host ready for VFIO, and what to do where not. Exit status 0 only when ready')
    .addOption(json())
    .addOption(sysfs())
    .action(
      run((options: Common) => {
        const diagnosis = diagnose(look(options, { brief: true, diagnosis: true }))
        answer(diagnosis, options.json, render)
        return diagnosis.ready ? 0 : NOT_READY
      }),
    )
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
