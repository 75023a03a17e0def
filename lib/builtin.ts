import { createRequire } from 'node:module'

interface Builtins {
  readonly 'node:child_process': typeof import('node:child_process')
  readonly 'node:crypto': typeof import('node:crypto')
  readonly 'node:net': typeof import('node:net')
  readonly 'node:v8': typeof import('node:v8')
}

/** A module of Node's own that takes milliseconds to load, once it is needed. Node before 20.16 has no call for that. */
export const builtin = <Name extends keyof Builtins>(name: Name): Builtins[Name] =>
  typeof process.getBuiltinModule === 'function'
    ? (process.getBuiltinModule(name) as Builtins[Name])
    : (createRequire(import.meta.url)(name) as Builtins[Name])
