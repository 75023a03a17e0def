import { VfioError } from '../errors.js'

/**
 * What else runs programs for Node has not all of libuv: it ends the process where a poll handle is made, or where one
 * calls back, so that it cannot be tried.
 * @param what cannot be delivered there
 * @param instead of running the program with Node
 * @throws VfioError `ERR_VFIO_RUNTIME`
 */
export function checkPolls(what: string, instead: string): void {
  const { bun, deno } = process.versions
  const runtime = bun !== undefined ? 'Bun' : deno !== undefined ? 'Deno' : null
  if (runtime === null) return
  throw new VfioError(
    'ERR_VFIO_RUNTIME',
    `${runtime} cannot deliver ${what}: run the program with Node, or ${instead}`,
  )
}
