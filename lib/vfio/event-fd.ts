import type { NativeEventFd } from '../native/binding.js'
import { binding } from '../native/load.js'
import { call } from '../native/translate.js'
import { badArgument, checkInteger, show } from './arguments.js'
import { Handle, VfioObject, watched } from './handle.js'

/**
 * An eventfd (`eventfd(2)`): a counter that the kernel or another program adds to. For interrupts that a VMM routes by
 * itself (`KVM_IRQFD`), and as a signal to VFIO. Events of {@link VfioIrq} need none.
 */
export class EventFd extends VfioObject {
  /** @internal */
  readonly handle: Handle<NativeEventFd>

  /** @internal */
  constructor(handle: Handle<NativeEventFd>) {
    super()
    this.handle = watched(this, handle)
  }

  /** A new one: not inherited by child processes, and reading does not wait. */
  static create(): EventFd {
    return created(call(() => binding().EventFd.create()))
  }

  /** Its number, for other code of this process. It belongs to this object, which closes it. */
  get fd(): number {
    return this.ask((native) => native.number())
  }

  /** Adds to the counter: 1 to 4294967295. */
  signal(count = 1): void {
    const checked = checkInteger(count, 0xffffffff, 'count')
    this.ask((native) => native.signal(checked))
  }

  /** What was added since the last read, 0 where nothing was. */
  read(): number {
    return this.ask((native) => native.read())
  }
}

// Outside of the class, which keeps its name in the bundle only if it does not name itself.
const created = (native: NativeEventFd) => new EventFd(new EventFdHandle(native, 'eventfd', null))

class EventFdHandle extends Handle<NativeEventFd> {
  // Which takes no time.
  protected override async closeRaw(): Promise<void> {
    this.raw.closeNow()
  }
}

/** The number of an eventfd that the caller owns. */
export function eventfdNumber(eventfd: EventFd | number, name: string): number {
  if (eventfd instanceof EventFd) return eventfd.fd
  if (typeof eventfd === 'number') return checkInteger(eventfd, 0x7fffffff, name)
  throw badArgument(`${name} must be an EventFd or the number of a descriptor, not ${show(eventfd)}`)
}
