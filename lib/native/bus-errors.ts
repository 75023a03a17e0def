import type { Binding } from './binding.js'

/**
 * Keeps the addon's handler of SIGBUS in its place. The first listener that a program adds puts another handler there, and
 * the last one that it removes none at all. Only where a listener came or went: other code that takes the signal over
 * passes on what is not its own.
 */
export function guardBusErrors(binding: Binding): void {
  // Told before a listener is added and after it was removed, and both after Node's own part.
  const changed = (event: string | symbol) => {
    if (event === 'SIGBUS' && process.listenerCount('SIGBUS') === 0) binding.handleBusErrors()
  }
  process.on('newListener', changed)
  process.on('removeListener', changed)
}
