import { VfioError } from '../errors.js'

export const badArgument = (message: string) => new VfioError('ERR_VFIO_BAD_ARGUMENT', message)

export function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value)
  if (typeof value === 'bigint') return `${value}n`
  return typeof value === 'object' || typeof value === 'function'
    ? `a value of type ${typeof value}`
    : String(value)
}

/** An integer from 0 to `largest`. */
export function checkInteger(value: unknown, largest: number, name: string): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= largest) return value
  throw noInteger(value, largest, name)
}

// What a wrong argument is told is apart, so that the compiler puts the checks in line.
const noInteger = (value: unknown, largest: number, name: string) =>
  badArgument(`${name} must be an integer from 0 to ${largest}, not ${show(value)}`)

const LARGEST_WORD = 2n ** 64n - 1n

const words = new Uint32Array(2)
const long = new BigUint64Array(words.buffer)
const LOW = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1 ? 0 : 1

/** The same as a bigint, of an integer from 0 to 2^53 - 1: without the call of the runtime that `BigInt()` is. */
export function bigintOf(value: number): bigint {
  words[LOW] = value
  words[1 - LOW] = value / 2 ** 32
  return long[0] as bigint
}

/** An address or size: a bigint of 64 bits, or an integer that a number holds exactly. */
export function checkUint64(value: unknown, name: string): bigint {
  if (typeof value === 'bigint' && value >= 0n && value <= LARGEST_WORD) return value
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return bigintOf(value)
  throw noUint64(value, name)
}

const noUint64 = (value: unknown, name: string) =>
  badArgument(
    `${name} must be a bigint from 0 to 2^64 - 1, or an integer from 0 to 2^53 - 1, not ${show(value)}`,
  )

/** Numbers by name. A Map, because looking into an object by a text of the caller's is slow to do safely. */
export type Names = ReadonlyMap<unknown, number>

export const namesOf = (table: Readonly<Record<string, number>>): Names => new Map(Object.entries(table))

/** A number as it is, or a name by its table. */
export function checkIndex(value: unknown, names: Names, name: string): number {
  return names.get(value) ?? checkNumber(value, names, name)
}

function checkNumber(value: unknown, names: Names, name: string): number {
  if (typeof value !== 'string') return checkInteger(value, 0xffffffff, name)
  throw badArgument(`${name} must be a number or one of ${[...names.keys()].join(', ')}, not ${show(value)}`)
}

/** A path of a file: text, not empty, without NUL. */
export function checkPath(value: unknown): string {
  if (typeof value === 'string' && value !== '' && !value.includes('\0')) return value
  throw badArgument(`the path must be text that is not empty and has no NUL, not ${show(value)}`)
}

/** The options of a call that takes a signal. */
export function checkOptions<T extends { signal?: AbortSignal | undefined }>(options: T): T {
  if (typeof options !== 'object' || options === null) throw noOptions(options)
  const { signal } = options
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw noSignal(signal)
  return options
}

const noOptions = (value: unknown) => badArgument(`options must be an object, not ${show(value)}`)
const noSignal = (value: unknown) => badArgument(`options.signal must be an AbortSignal, not ${show(value)}`)

/** A typed array or DataView with at least one byte: one that was detached has none. */
export function checkView(value: unknown, name: string): ArrayBufferView {
  if (ArrayBuffer.isView(value) && sizeOf(value) > 0) return value
  throw badArgument(
    ArrayBuffer.isView(value)
      ? `${name} must have at least one byte (a view whose buffer was transferred has none)`
      : `${name} must be a typed array or DataView, not ${show(value)}`,
  )
}

function sizeOf(view: ArrayBufferView): number {
  try {
    return view.byteLength
  } catch {
    // A DataView throws where a typed array says 0.
    return 0
  }
}

/** A boolean that may be left out. */
export function checkFlag(value: unknown, otherwise: boolean, name: string): boolean {
  if (value === undefined) return otherwise
  if (typeof value === 'boolean') return value
  throw noFlag(value, name)
}

const noFlag = (value: unknown, name: string) =>
  badArgument(`${name} must be true or false, not ${show(value)}`)

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

/** The shared secret of the drivers of a physical function and of its virtual functions: a UUID. */
export function checkVfToken(value: unknown, name: string): string {
  if (typeof value === 'string' && UUID.test(value)) return value
  throw badArgument(`${name} must be a UUID, not ${show(value)}`)
}

/** A UUID's 16 bytes, in the order in which it is written. */
export const uuidBytes = (uuid: string) => Uint8Array.from(Buffer.from(uuid.replaceAll('-', ''), 'hex'))
