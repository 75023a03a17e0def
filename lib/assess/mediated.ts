import { isKernelSince } from '../sysfs/kernel.js'
import type { MediatedDevice } from '../sysfs/mediated.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import type { ResetCapability } from './reset.js'
import { unseenAbout, unseenSentence } from './unseen.js'

/** The driver of kernels before 5.19 that gave to VFIO what had none of its own; the module has the same name. */
export const VFIO_MDEV = 'vfio_mdev'

/** How a mediated device stands to VFIO. */
export interface MediatedVerdict {
  readonly verdict: 'ready' | 'bindable' | 'blocked'
  readonly reason: string
  readonly toBind: readonly string[]
}

/** What a person knows it by: `83b8f4f2-… (mtty-1 of mtty)`. */
export const mediatedText = ({ uuid, type, parent }: MediatedDevice) => {
  const what = [type, parent === null ? null : `of ${parent}`].filter((part) => part !== null).join(' ')
  return what === '' ? uuid : `${uuid} (${what})`
}

/**
 * Judges a mediated device. Its driver decides what it may reach, so no IOMMU and no group keep it from being given away:
 * it is ready once a driver has given it to VFIO, which drivers do as they make it.
 */
export function judgeMediated(seen: Snapshot, device: MediatedDevice): MediatedVerdict {
  const { uuid, driver, group } = device
  const text = mediatedText(device)
  const blocked = (reason: string): MediatedVerdict => ({ verdict: 'blocked', reason, toBind: [] })
  const about = { addresses: [uuid], groups: group === null ? [] : [group], host: true }
  const unseen = unseenSentence(`what ${uuid} depends on`, unseenAbout(seen, seen.unseen, about))
  if (unseen !== null) return blocked(unseen)
  if (device.vfioRegistered) {
    const reason = `${text} is with VFIO through its driver ${driver}, which lends it memory and keeps it apart from others`
    return { verdict: 'ready', reason, toBind: [] }
  }
  const anew = `make it anew ("vfio mdev remove ${uuid}", then "vfio mdev create")`
  if (driver !== null) {
    return blocked(
      `${text} is bound to ${driver}, which has not given it to VFIO: the kernel's log says why; else ${anew}`,
    )
  }
  if (isKernelSince(seen.host.kernel, 5, 19)) {
    return blocked(
      `${text} has no driver, and the kernel gives it that of its parent only when it is made: ${anew}`,
    )
  }
  return {
    verdict: 'bindable',
    reason: `${text} can be given away once it is bound to ${VFIO_MDEV}, which this kernel does by itself where that module is loaded`,
    toBind: [uuid],
  }
}

/** What is known of its resets before it is opened. */
export function mediatedReset({ uuid }: MediatedDevice): ResetCapability {
  return {
    function: {
      supported: false,
      methods: [],
      reason: `whether ${uuid} can be reset is up to its driver, which tells only who opens it: "vfio check ${uuid} --ask-kernel" does`,
      unknown: true,
    },
    hot: {
      supported: false,
      affected: [],
      blockers: [],
      reason: `${uuid} is no PCI function: it has no slot or bus that a hot reset could go through`,
    },
    scope: 'none',
  }
}
