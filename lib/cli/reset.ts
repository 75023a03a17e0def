import { resetDevice, type Snapshot } from '../index.js'
import { print, toJson } from './output.js'

/** `vfio reset`: resets a device through VFIO, by itself or with all of its slot or bus. */
export async function reset(
  seen: Snapshot,
  address: string,
  { json = false, hot = false }: { json?: boolean; hot?: boolean },
): Promise<number> {
  const report = await resetDevice(seen, address, { hot })
  const how = report.method === 'hot' ? 'a hot reset' : 'a function reset'
  const others = report.affected.filter((affected) => affected !== report.address)
  const along = others.length > 0 ? ` together with ${others.join(', ')}` : ''
  print(
    json ? toJson(report) : `${report.address} was reset${along} by ${how} in ${report.milliseconds} ms\n`,
  )
  return 0
}
