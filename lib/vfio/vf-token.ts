import { badArgument, show } from './arguments.js'

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

/** The shared secret of the drivers of a physical function and of its virtual functions: a UUID. */
export function checkVfToken(value: unknown, name: string): string {
  if (typeof value === 'string' && UUID.test(value)) return value
  throw badArgument(`${name} must be a UUID, not ${show(value)}`)
}

/** A UUID's 16 bytes, in the order in which it is written. */
export const uuidBytes = (uuid: string) => Uint8Array.from(Buffer.from(uuid.replaceAll('-', ''), 'hex'))
