import type { PlannedDevice } from '../assign/plan.js'
import type { DeviceEvent } from '../sysfs/watch.js'
import type { Ending } from './command.js'
import type { LaunchBackend } from './nodes.js'

/** What happens to a run, in the order in which it does. */
export type RunEvent =
  /** The devices are with VFIO, and were reset. */
  | { readonly event: 'bound'; readonly devices: readonly PlannedDevice[] }
  | {
      readonly event: 'started'
      readonly pid: number
      readonly command: string
      readonly backend: LaunchBackend
    }
  /** Something has happened to a device while the command runs: it asks to be released, is gone, has reported an error, … */
  | ({ readonly event: 'device' } & DeviceEvent)
  | ({ readonly event: 'ended' } & Ending)
  /** The host has the devices back as they were, but for those that are gone from it. */
  | { readonly event: 'released'; readonly devices: readonly string[]; readonly gone: readonly string[] }
  /** Not everything could be given back: "vfio recover" does the rest. */
  | { readonly event: 'failed'; readonly message: string }
