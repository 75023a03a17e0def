import { basename } from 'node:path'
import { VfioError } from '../errors.js'

/** Words of a command that stand for the arguments of the devices, each for as many words as these are. */
export interface CommandWords {
  readonly qemu: () => readonly string[]
  readonly cloudHypervisor: () => readonly string[]
  readonly addresses: readonly string[]
}

const QEMU = '{qemu}'
const CLOUD_HYPERVISOR = '{cloud-hypervisor}'
const ADDRESSES = '{addresses}'

/** Does the command open devices by the paths of their nodes, whatever descriptors it gets? */
export const opensByPath = (command: readonly string[]) => command.includes(CLOUD_HYPERVISOR)

/**
 * A command with what its words stand for. A `qemu-system-*` that has none of them gets the arguments at its end.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT`
 */
export function fillIn(command: readonly string[], words: CommandWords): readonly string[] {
  const [program, ...rest] = command
  const isText = (word: unknown): boolean => typeof word === 'string' && !word.includes('\0')
  if (!program || !command.every(isText)) {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      'no command is given: name a program and its arguments, as in "vfio run 59:00.0 -- qemu-system-x86_64 -m 4G"',
    )
  }
  const known = new Map<string, () => readonly string[]>([
    [QEMU, words.qemu],
    [CLOUD_HYPERVISOR, words.cloudHypervisor],
    [ADDRESSES, () => words.addresses],
  ])
  const isNamed = rest.some((word) => known.has(word))
  const filled = rest.flatMap((word) => known.get(word)?.() ?? [word])
  if (isNamed || !basename(program).startsWith('qemu-system-')) return [program, ...filled]
  return [program, ...filled, ...words.qemu()]
}
