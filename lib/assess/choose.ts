import { VfioError } from '../errors.js'
import { classWord } from '../sysfs/class-names.js'
import { isFree } from './overview.js'
import type { Survey, SurveyedDevice, SurveyedMediated } from './survey.js'

/** Which devices of an overview are wanted. All that is given has to fit. */
export interface Choice {
  /** Each has to be in the address, the ids, the class, the driver or a name; case does not count. */
  readonly words?: readonly string[] | undefined
  /** A word of {@link classWord}, or the first digits of the class code: `vga`, `0300`, `02`. */
  readonly class?: string | undefined
  /** `none`: those without a driver. */
  readonly driver?: string | undefined
  /** Those that can be given away, nothing on the host using what has to be bound for it. The snapshot must have looked at uses. */
  readonly free?: boolean | undefined
  readonly group?: number | undefined
}

/**
 * The part of an overview that is wanted: devices that fit, and the groups that these are in, whole.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` for what is no class; `ERR_VFIO_NO_GROUP`
 */
export function choose(all: Survey, choice: Choice): Survey {
  const isOfClass = choice.class === undefined ? null : classFilter(choice.class)
  if (choice.group !== undefined && !all.groups.some(({ group }) => group === choice.group)) {
    throw new VfioError(
      'ERR_VFIO_NO_GROUP',
      `there is no IOMMU group ${choice.group} on this host: "vfio list" shows those that there are`,
    )
  }
  const words = (choice.words ?? []).map((word) => word.toLowerCase())
  const fits = (device: SurveyedDevice) =>
    (isOfClass === null || isOfClass(device.class)) &&
    (choice.driver === undefined || (device.driver ?? 'none') === choice.driver) &&
    (choice.group === undefined || device.group === choice.group) &&
    (!choice.free || isFree(device)) &&
    words.every((word) => textOf(device).includes(word))
  const { driver, group, free } = choice
  const wantsAll =
    isOfClass === null && words.length === 0 && !free && driver === undefined && group === undefined
  const devices = wantsAll ? all.devices : all.devices.filter(fits)
  const mediated = (all.mediated ?? []).filter(
    (device) =>
      // They have no class, and whether one is open is asked of it alone.
      isOfClass === null &&
      !choice.free &&
      (choice.driver === undefined || (device.driver ?? 'none') === choice.driver) &&
      (choice.group === undefined || device.group === choice.group) &&
      words.every((word) => textOfMediated(device).includes(word)),
  )
  const groups = new Set<number | null>()
  for (const chosen of [devices, mediated])
    chosen.forEach(({ group }) => {
      groups.add(group)
    })
  return {
    host: all.host,
    groups: all.groups.filter(({ group }) => groups.has(group)),
    devices,
    ...(mediated.length > 0 && { mediated }),
  }
}

const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0')

function textOf(device: SurveyedDevice): string {
  const { address, vendor, device: id, class: code, driver, names } = device
  const parts = [address, `${hex(vendor, 4)}:${hex(id, 4)}`, classWord(code), driver, ...Object.values(names)]
  return parts.join('\n').toLowerCase()
}

const textOfMediated = ({ uuid, type, parent, driver }: SurveyedMediated): string =>
  [uuid, type, parent, driver].join('\n').toLowerCase()

function classFilter(wanted: string): (code: number) => boolean {
  const word = wanted.toLowerCase()
  if (/^(?:[0-9a-f]{2}){1,3}$/.test(word)) return (code) => hex(code, 6).startsWith(word)
  if (!/^[\w-]+$/.test(word)) {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      'a class is a word of the column CLASS like vga, ethernet or nvme, or a number like 0300',
    )
  }
  return (code) => classWord(code).toLowerCase() === word
}
