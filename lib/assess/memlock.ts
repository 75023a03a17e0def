import { VfioError } from '../errors.js'
import type { PciDevice } from '../sysfs/devices.js'

/** What a hypervisor maps for DMA besides the guest's memory and the devices': firmware, video memory. libvirt gives as much. */
const HEADROOM = 2 ** 30
const GIB = 2 ** 30

export interface MemlockOptions {
  /** Guest memory in bytes. */
  readonly memory: number
  /** Containers that map all of it: 1, or with a virtual IOMMU in the guest one for each group. */
  readonly containers?: number
  /** Memory BARs of the devices in bytes: hypervisors map them too, so that devices reach each other (peer to peer). */
  readonly bars?: number
  /** Opened through `/dev/iommu`, which counts each page once and by user. */
  readonly iommufd?: boolean
  /** Who starts the VM, as name or number. */
  readonly user: string
}

/** The locked memory that a VM needs, and how to allow it. */
export interface Memlock {
  /** RLIMIT_MEMLOCK in bytes. */
  readonly bytes: number
  /** Who is charged: the process for each container (VFIO type 1), or the user over all processes (iommufd). */
  readonly charged: 'process' | 'user'
  /** How `bytes` comes about, in a sentence. */
  readonly arithmetic: string
  /** For logins: the line, and the file for it. */
  readonly limits: { readonly path: string; readonly line: string }
  /** For services: the line under `[Service]`. */
  readonly systemd: string
}

const gib = (bytes: number) => `${Number((bytes / GIB).toFixed(3))} GiB`

/**
 * How much memory a VM with assigned devices locks. VFIO pins all of the guest's memory, and charges a process for each
 * container; iommufd charges the user, once however many devices share the memory. CAP_IPC_LOCK exempts, and so root.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT`
 */
export function lockedMemory({
  memory,
  containers = 1,
  bars = 0,
  iommufd = false,
  user,
}: MemlockOptions): Memlock {
  if (!Number.isSafeInteger(memory) || memory <= 0 || memory > 2 ** 50) {
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', 'the memory must be a number of bytes from 1 to 2^50')
  }
  if (!Number.isInteger(containers) || containers < 1 || containers > 4096) {
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', 'the containers must be an integer from 1 to 4096')
  }
  if (!Number.isSafeInteger(bars) || bars < 0) {
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', 'the BARs must be a number of bytes')
  }
  const times = iommufd ? 1 : containers
  const bytes = times * (memory + bars + HEADROOM)
  const ofDevices = bars > 0 ? ` + ${gib(bars)} of the devices' BARs` : ''
  const sum = `${gib(memory)} of guest memory${ofDevices} + ${gib(HEADROOM)} for what else the hypervisor maps`
  const arithmetic = iommufd
    ? `${sum} = ${gib(bytes)}; iommufd charges the user once for each page, so add up all VMs of ${user}`
    : `${times === 1 ? sum : `${times} containers × (${sum})`} = ${gib(bytes)}; VFIO charges a process for each container, so a guest with a virtual IOMMU needs it once for each group`
  const kib = Math.ceil(bytes / 1024)
  return {
    bytes,
    charged: iommufd ? 'user' : 'process',
    arithmetic,
    limits: {
      path: '/etc/security/limits.d/vfio.conf',
      line: `${/^\d+$/.test(user) ? `${user}:${user}` : user} - memlock ${kib}`,
    },
    systemd: `LimitMEMLOCK=${kib}K`,
  }
}

/** The memory BARs of devices in bytes: what a hypervisor maps of them for the other devices. I/O ports it cannot. */
export const memoryBars = (devices: readonly Pick<PciDevice, 'bars'>[]) =>
  devices
    .flatMap(({ bars }) => bars)
    .filter(({ kind, index }) => kind === 'memory' && index !== 'rom')
    .reduce((sum, { size }) => sum + size, 0)
