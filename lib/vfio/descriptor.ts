import { binding } from '../native/load.js'
import { call } from '../native/translate.js'
import { isAddress } from '../sysfs/address.js'
import { decode } from '../sysfs/bytes.js'
import { linkTarget, readText } from '../sysfs/files.js'
import { leavingOut } from '../sysfs/unseen.js'
import { printable } from '../text.js'
import { badArgument, checkInteger } from './arguments.js'

/** What a descriptor that somebody has given may stand for. */
export type DescriptorKind = 'device' | 'device of a group' | 'group' | 'container' | 'iommufd'

export interface Described {
  readonly kind: DescriptorKind
  /** Of a device, where sysfs or the kernel says it. */
  readonly address: string | null
}

/** What to give in the place of the wrong one. */
const WANTED: Readonly<Record<DescriptorKind, string>> = {
  device: 'an open /dev/vfio/devices/vfioN, or what VFIO_GROUP_GET_DEVICE_FD gave',
  'device of a group': 'what VFIO_GROUP_GET_DEVICE_FD gave',
  group: 'an open /dev/vfio/N',
  container: 'an open /dev/vfio/vfio',
  iommufd: 'an open /dev/iommu',
}

/**
 * What is behind a descriptor of this process, and nothing but one of these kinds: by what sysfs says of the number of the character
 * device, else by the name of the file; what a group gave has a name, and no file.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT`
 * @throws VfioSystemError `EBADF`
 */
export function describe(fd: number, kinds: readonly [DescriptorKind, ...DescriptorKind[]]): Described {
  const checked = checkInteger(fd, 0x7fffffff, 'fd')
  const file = call(() => binding().describe(checked))
  const name = decode(file.name)
  const found = file.isCharacter
    ? ofPath(leavingOut(() => linkTarget(`/sys/dev/char/${file.major}:${file.minor}`)) ?? name)
    : name === 'anon_inode:[vfio-device]'
      ? ofGroup(checked)
      : null
  if (found !== null && kinds.includes(found.kind)) return found
  const what = name === '' ? 'something else' : printable(name)
  throw badArgument(`descriptor ${checked} is ${what}: give ${WANTED[kinds[0]]}`)
}

const CDEV = /(?:^|\/)(?:noiommu-)?vfio\d+$/
const GROUP = /\/vfio\/(?:noiommu-)?\d+$/

/** A directory of sysfs, or a file below /dev. */
function ofPath(path: string): Described | null {
  const [name = '', room, address = ''] = path.split('/').reverse()
  if ((room === 'vfio-dev' || room === 'devices') && CDEV.test(name))
    return { kind: 'device', address: room === 'vfio-dev' && isAddress(address) ? address : null }
  if (GROUP.test(path)) return { kind: 'group', address: null }
  if (/\/(?:misc|vfio)\/vfio$/.test(path)) return { kind: 'container', address: null }
  return /\/iommu$/.test(path) ? { kind: 'iommufd', address: null } : null
}

/** Since Linux 6.17 the kernel tells which device it is. */
function ofGroup(fd: number): Described {
  const info = leavingOut(() => readText(`/proc/self/fdinfo/${fd}`)) ?? ''
  const [, path = ''] = /^vfio-device-syspath:\s*(.+)$/m.exec(info) ?? []
  const address = path.slice(path.lastIndexOf('/') + 1)
  return { kind: 'device of a group', address: isAddress(address) ? address : null }
}
