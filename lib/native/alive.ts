import { binding } from './load.js'

let awaited = 0

function count(change: 1 | -1): void {
  const before = awaited
  awaited += change
  if (before === 0) binding().loop.ref()
  else if (awaited === 0) binding().loop.unref()
}

/**
 * Keeps the event loop of this thread alive until the promise is settled, as Node's own calls do. For calls that somebody
 * awaits. Returns the same promise.
 */
export function keepAlive<T>(promise: Promise<T>): Promise<T> {
  count(1)
  const settled = () => count(-1)
  promise.then(settled, settled)
  return promise
}
