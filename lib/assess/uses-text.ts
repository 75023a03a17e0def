import type { Unseen } from '../sysfs/unseen.js'
import type { Process } from '../sysfs/use-processes.js'
import type { HostUse } from './host-use.js'
import { ownerOf, stopCure } from './service.js'

/** No host stacks its devices or interfaces higher. */
export const DEEPEST = 32

/** How many names a sentence lists before it counts. */
const NAMED = 3

/** `a`, `a and b`, `a, b, c and 4 more`. */
export function several(items: readonly string[]): string {
  const distinct = [...new Set(items)]
  const named = distinct.length > NAMED + 1 ? distinct.slice(0, NAMED) : distinct
  const rest = distinct.length - named.length
  const all = rest > 0 ? [...named, `${rest} more`] : named
  const last = all.at(-1) ?? ''
  return all.length > 1 ? `${all.slice(0, -1).join(', ')} and ${last}` : last
}

/** `/proc/swaps (EACCES)` */
export const unseenText = ({ path, code }: Unseen) => `${path} (${code})`

/** What to do so that it can be seen. */
export function unseenCure(all: readonly Unseen[]): string {
  if (all.some(({ code }) => code === 'EACCES' || code === 'EPERM')) return 'run as root'
  return all.some(({ code }) => code === 'ETIMEDOUT')
    ? 'the kernel is still busy with a change of it, often until a program closes it; look again then'
    : 'look again'
}

/** `Xorg (pid 4711, service gdm.service)`; each process once. */
export const holders = (processes: readonly Process[]) =>
  several(
    processes.map((process) => {
      const owner = ownerOf(process)
      return `${process.command || 'a process'} (pid ${process.pid}${owner ? `, ${owner.text}` : ''})`
    }),
  )

/** What ends those who have something open, as far as a command does. */
export function stopping(processes: readonly Process[], kind: HostUse['kind']): { readonly stop?: string } {
  const owners = processes.flatMap((process) => ownerOf(process) ?? [])
  // Those of systemd itself hold devices for a session, and give them up with it.
  const services = owners.flatMap(({ service }) =>
    service === null || service.startsWith('systemd-') ? [] : service,
  )
  const stop = stopCure(
    [...new Set(services)],
    owners.some(({ inSession }) => inSession),
    kind === 'display',
  )
  return stop === null ? {} : { stop }
}
