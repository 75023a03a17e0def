import { isOfMachine, type PciDevice } from 'vfio'
import { isOfClass } from './class.js'
import type { Selector } from './config.js'

/** Can a function be given away at all? Bridges stay with the host. */
export const isFunction = ({ headerType }: PciDevice) => headerType === 'normal'

/** Does all that a selector gives fit? What is not known fits nothing. */
export function fits(device: PciDevice, selector: Selector): boolean {
  const { address, ids, driver, numa } = selector
  return (
    isFunction(device) &&
    (isNamed(selector) || !isOfMachine(device.class)) &&
    (address === undefined || address.includes(device.address)) &&
    (ids === undefined || ids.includes(device.ids)) &&
    (selector.class === undefined || selector.class.some((word) => isOfClass(device.class, word))) &&
    (driver === undefined || (device.driver !== null && driver.includes(device.driver))) &&
    (numa === undefined || (device.numaNode !== null && numa.includes(device.numaNode)))
  )
}

/** What belongs to the machine itself is taken by those alone who name it. */
const isNamed = ({ address, ids }: Selector) => address !== undefined || ids !== undefined
