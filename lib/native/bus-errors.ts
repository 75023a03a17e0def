import type { Binding } from './binding.js'

/**
 * Keeps the addon's SIGBUS handler installed. Node replaces it when a program adds its first listener of SIGBUS, and removes
 * the handler with the last one. Other native code that takes over the signal has to pass on what is not its own.
 */
export function guardBusErrors(binding: Binding): void {
  // Told before a listener is added and after it was removed, and both after Node's own part.
  const changed = (event: string | symbol) => {
    if (event === 'SIGBUS' && process.listenerCount('SIGBUS') === 0) binding.handleBusErrors()
  }
  process.on('newListener', changed)
  process.on('removeListener', changed)
}
