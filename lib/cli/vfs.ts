import { type Snapshot, setVfs, VfioError } from '../index.js'
import { print, toJson } from './output.js'

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
  const report = await setVfs(seen, address, Number(count), { deadline })
  if (json) print(toJson(report))
  else {
    const now = report.vfs.length > 0 ? `: ${report.vfs.join(' ')}` : ''
    const change = report.from === report.to ? 'as before' : `${report.from} before`
    print(`${report.address} has ${report.to} virtual functions, ${change}${now}\n`)
  }
  return 0
}
