import { badArgument, show } from './arguments.js'

const LARGEST_DESCRIPTOR = 0x7fffffff

/** The descriptor of an eventfd: an open object that has one as `fd`, or its number. */
export function checkEventfd(value: unknown, name: string): number {
  const number = typeof value === 'object' && value !== null && 'fd' in value ? value.fd : value
  if (typeof number === 'number' && Number.isInteger(number) && number >= 0 && number <= LARGEST_DESCRIPTOR) {
    return number
  }
  throw badArgument(`${name} must be an eventfd or the number of its descriptor, not ${show(value)}`)
}
