import { slotOf } from '../sysfs/address.js'

/** Functions with those of their slot, in the order of the first of each. */
export function bySlot<T extends { readonly address: string }>(functions: readonly T[]): T[][] {
  const slots = new Map<string, T[]>()
  for (const each of functions) {
    const slot = slotOf(each.address)
    slots.set(slot, [...(slots.get(slot) ?? []), each])
  }
  return [...slots.values()]
}
