import type { DeviceEvent, DeviceEventKind } from '../sysfs/device-events.js'
import type { Survey, SurveyedDevice, SurveyedMediated } from './survey.js'

/** What has happened to a device between two overviews of a host. */
export interface SurveyChange {
  readonly event: Exclude<DeviceEventKind, 'lost'>
  /** In sysfs form, or the UUID of a mediated device. */
  readonly address: string
  /** In one sentence, without a full stop. */
  readonly what: string
  /** How it stands now; as it was last where it is gone. */
  readonly device: SurveyedDevice | SurveyedMediated
}

type Listed = SurveyedDevice | SurveyedMediated

/** What happens and leaves no trace in an overview, or not for sure. */
const OCCURRENCES: ReadonlySet<DeviceEventKind> = new Set([
  'opened',
  'closed',
  'error',
  'corrected',
  'recovered',
  'failed',
  'release-requested',
])

/**
 * What has changed: by the overviews themselves, so that nothing is missed where a message was; and what was heard meanwhile and
 * shows in none, such as errors, opens and closes. In the order of addresses, each device's in the order of time.
 */
export function changesBetween(
  before: Survey,
  after: Survey,
  heard: readonly DeviceEvent[] = [],
): SurveyChange[] {
  const [former, now] = [byName(before), byName(after)]
  const names = [...new Set([...now.keys(), ...former.keys()])].sort()
  return names.flatMap((address) => {
    const [was, is] = [former.get(address), now.get(address)]
    const device = is ?? was
    if (device === undefined) return []
    const happened = heard
      .filter((event): event is Heard => event.address === address && OCCURRENCES.has(event.kind))
      .map(({ kind, what }) => ({ event: kind, what }))
    const shown = whatShows(address, was, is)
    // Another one may be in its place, or it came back: what went with it is gone all the same.
    if (was && is && heard.some((event) => event.address === address && event.kind === 'removed')) {
      return [
        { event: 'removed' as const, what: `${address} is gone`, address, device: was },
        ...happened.map((told) => ({ ...told, address, device: is })),
        { event: 'added' as const, what: `${address} is there: ${is.reason}`, address, device: is },
      ]
    }
    // An open shows in the overview too: that is one change, and not two.
    const isTold = shown === null || (shown.event === 'changed' && happened.length > 0)
    return [...(isTold ? [] : [shown]), ...happened].map((told) => ({ ...told, address, device }))
  })
}

interface Heard extends DeviceEvent {
  readonly kind: SurveyChange['event']
}

const byName = ({ devices, mediated = [] }: Survey): Map<string, Listed> =>
  new Map<string, Listed>([
    ...devices.map((device) => [device.address, device] as const),
    ...mediated.map((device) => [device.uuid, device] as const),
  ])

type Told = Pick<SurveyChange, 'event' | 'what'>

function whatShows(address: string, was: Listed | undefined, is: Listed | undefined): Told | null {
  if (is === undefined) return { event: 'removed', what: `${address} is gone` }
  const { driver, reason } = is
  if (was === undefined) return { event: 'added', what: `${address} is there: ${reason}` }
  if (was.driver !== driver)
    return driver === null
      ? { event: 'unbound', what: `${address} was unbound from ${was.driver}: ${reason}` }
      : { event: 'bound', what: `${address} is bound to ${driver}: ${reason}` }
  if (textOf(was) === textOf(is)) return null
  return {
    event: 'changed',
    what: was.reason === reason ? `the uses or the reset of ${address} changed` : reason,
  }
}

/** Numbers of processes in the uses too: another program that has it open is a change. */
const textOf = (device: Listed) => JSON.stringify(device)
