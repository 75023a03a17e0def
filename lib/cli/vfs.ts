import { type Snapshot, setVfs, VfioError, type VfsReport } from '../index.js'
import { answer } from './output.js'
import { stoppable } from './signals.js'

export interface VfsCommandOptions {
  readonly timeout?: number
  readonly json?: boolean
}

/** `vfio vfs`: sets the number of virtual functions of a device. */
export async function vfs(
  seen: Snapshot,
  address: string,
  count: string,
  { timeout, json = false }: VfsCommandOptions,
): Promise<number> {
  if (!/^\d{1,5}$/.test(count)) {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      `${JSON.stringify(count.slice(0, 40))} is no number of virtual functions: expected one like 4, or 0 for none`,
    )
  }
  const deadline = timeout === undefined ? undefined : timeout * 1000
  return await stoppable('finishing what was begun', async () => {
    answer(await setVfs(seen, address, Number(count), { deadline }), json, render)
    return 0
  })
}

function render({ address, from, to, vfs: made }: VfsReport): string {
  const now = made.length > 0 ? `: ${made.join(' ')}` : ''
  const change = from === to ? 'as before' : `${from} before`
  return `${address} has ${to} virtual functions, ${change}${now}\n`
}
