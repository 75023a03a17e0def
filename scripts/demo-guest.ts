// What the demo does inside the guest. Devices are found by what they are, not by where QEMU put them.
import { spawnSync } from 'node:child_process'
import { Host, type Survey, survey } from 'vfio'

const bold = (text: string) => (process.stdout.isTTY ? `\u001b[1m${text}\u001b[0m` : text)

function explain(text: string): void {
  console.log(`\n${bold(`# ${text}`)}`)
}

/** Runs `vfio …` for the reader to see, and says how it ended. */
function vfio(...words: string[]): number {
  console.log(`\n$ vfio ${words.join(' ')}`)
  const { status } = spawnSync(process.execPath, ['dist/cli/main.js', ...words], { stdio: 'inherit' })
  console.log(`(exit status ${status})`)
  return status ?? 1
}

function expect(what: string, status: number, wanted: number): void {
  if (status !== wanted) throw new Error(`${what} ended with status ${status}, and not with ${wanted}`)
}

function find(seen: Survey, what: string, is: (device: Survey['devices'][number]) => boolean): string {
  const found = seen.devices.find(is)
  if (!found) throw new Error(`this guest has no ${what}`)
  return found.address
}

explain('Which devices are there, what stands in the way of giving them away, and can they be reset?')
expect('list', vfio('list'), 0)

const seen = survey(new Host().snapshot())
explain('A device that cannot be given away, and why: no tool but this one names the culprit.')
const blocked = find(
  seen,
  'blocked endpoint',
  ({ verdict, headerType }) => verdict === 'blocked' && headerType === 'normal',
)
expect('check', vfio('check', blocked), 1)

explain('A device whose group has others in it: what has to be bound along with it.')
const shared = seen.groups.find(({ viable, members }) => {
  const devices = seen.devices.filter(({ address }) => members.includes(address))
  return !viable && devices.length > 2 && devices.some(({ verdict }) => verdict === 'bindable')
})
const candidate = find(
  seen,
  'device that needs others bound',
  ({ group, verdict, driver }) => group === shared?.group && verdict === 'bindable' && driver === null,
)
expect('check', vfio('check', candidate), 1)

explain('Bind the group: first each step, printed; then all of them as one transaction.')
expect('bind --dry-run', vfio('bind', candidate, '--group', '--dry-run'), 0)
expect('bind', vfio('bind', candidate, '--group'), 0)
expect('check', vfio('check', candidate, '--ask-kernel'), 0)

explain('A device that resets by itself: bound, the kernel asked, and reset.')
const resettable = find(
  seen,
  'device with a function reset',
  ({ verdict, resetScope, toBind }) =>
    verdict === 'bindable' && resetScope === 'function' && toBind.length === 1,
)
expect('bind', vfio('bind', resettable), 0)
expect('check', vfio('check', resettable, '--ask-kernel'), 0)
expect('reset', vfio('reset', resettable), 0)
expect('export', vfio('export', 'qemu', resettable), 0)

explain('And everything goes back to the host as it was.')
expect('status', vfio('status'), 0)
expect('release', vfio('release', '--all'), 0)

explain('Prediction and kernel agree. The same on your own host, only looking: npx vfio list')
