import type { NativeUser } from '../native/binding.js'

/** What a command finds in its environment. */
export type Environment = Readonly<Record<string, string | undefined>>

/** Whoever finds these takes descriptors for its own. */
const ANOTHERS = new Set(['LISTEN_FDS', 'LISTEN_FDNAMES', 'LISTEN_PID'])

/** A descriptor that the command gets, by the number that it has there. */
export interface PassedDescriptor {
  /** `iommufd`, or `vfio-` and the address of a device with `_` for `:`, which would end a name (sd_listen_fds(3)). */
  readonly name: string
  readonly fd: number
}

/** The environment of a command. `LISTEN_PID` comes when it has a pid. */
export function environmentOf(
  inherited: Environment,
  addresses: readonly string[],
  descriptors: readonly PassedDescriptor[],
  user: NativeUser | null,
): Environment {
  const others = Object.entries(inherited).filter(([name]) => !ANOTHERS.has(name))
  return {
    ...Object.fromEntries(others),
    VFIO_ADDRESSES: addresses.join(' '),
    ...(user && { HOME: user.home, USER: user.name, LOGNAME: user.name }),
    ...(descriptors.length > 0 && {
      LISTEN_FDS: String(descriptors.length),
      LISTEN_FDNAMES: descriptors.map(({ name }) => name).join(':'),
    }),
  }
}

/** As execve(2) takes it. */
export const textsOf = (environment: Environment): string[] =>
  Object.entries(environment).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${value}`]))
