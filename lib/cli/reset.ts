import { type ResetReport, resetDevice, type Snapshot } from '../index.js'
import { answer } from './output.js'

/** `vfio reset`: resets a device through VFIO, by itself or with all of its slot or bus. */
export async function reset(
  seen: Snapshot,
  address: string,
  { json = false, hot = false }: { json?: boolean; hot?: boolean },
): Promise<number> {
  const report = await resetDevice(seen, address, { hot })
  answer(report, json, render)
  return 0
}

function render({ address, method, affected, milliseconds }: ResetReport): string {
  const how = method === 'hot' ? 'a hot reset' : 'a function reset'
  const others = affected.filter((other) => other !== address)
  const along = others.length > 0 ? ` together with ${others.join(', ')}` : ''
  return `${address} was reset${along} by ${how} in ${milliseconds} ms\n`
}
