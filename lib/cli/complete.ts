import type { Argument, Command, Option } from 'commander'
import { Host, type PciDevice } from '../index.js'
import { printable } from '../text.js'
import { run } from './options.js'
import { print } from './output.js'
import { deviceName } from './words.js'

/** A word that may stand here, and what it is. */
export interface Candidate {
  readonly word: string
  readonly about: string
}

const flagsOf = ({ short, long }: Option) => [long, short].flatMap((flag) => flag ?? [])
const firstLine = (text: string) => printable(text.replace(/\s+/g, ' ')).slice(0, 60)

/**
 * What may stand in place of the last word.
 * @param words what was typed behind `vfio`, the last of them begun
 * @param devices those of the host; called only where an address may stand
 */
export function complete(
  vfio: Command,
  words: readonly string[],
  devices: () => readonly PciDevice[],
): Candidate[] {
  const begun = words.at(-1) ?? ''
  const [name = '', ...rest] = words.slice(0, -1)
  const fitting = (all: readonly Candidate[]) => all.filter(({ word }) => word.startsWith(begun))
  const named = (commands: readonly Command[]) =>
    commands
      .filter((command) => !command.name().startsWith('__'))
      .map((command) => ({ word: command.name(), about: firstLine(command.description()) }))
  if (words.length <= 1) return fitting([...named(vfio.commands), ...optionsOf(vfio)])
  const command = vfio.commands.find((one) => one.name() === name)
  if (command === undefined) return []
  if (command.commands.length > 0) return complete(command, words.slice(1), devices)
  const last = command.options.find((option) => flagsOf(option).includes(rest.at(-1) ?? ''))
  if (last?.required) return fitting(choicesOf(last))
  if (begun.startsWith('-')) return fitting([...optionsOf(command), { word: '--help', about: 'help' }])
  const argument = argumentAt(command, rest)
  if (argument === undefined) return []
  if (name === 'help') return fitting(named(vfio.commands))
  if (!argument.name().startsWith('address')) return fitting(choicesOf(argument))
  return addressesOf(devices(), begun, rest)
}

const optionsOf = ({ options }: Command): Candidate[] =>
  options.flatMap((option) =>
    option.hidden ? [] : [{ word: option.long ?? option.short ?? '', about: firstLine(option.description) }],
  )

const choicesOf = ({ argChoices = [] }: Option | Argument): Candidate[] =>
  argChoices.map((word) => ({ word, about: '' }))

/** The argument that the next word is: options and their values are none. */
function argumentAt(command: Command, words: readonly string[]): Argument | undefined {
  let given = 0
  for (let at = 0; at < words.length; at++) {
    const word = words[at] ?? ''
    const option = command.options.find((one) => flagsOf(one).includes(word))
    if (option?.required) at++
    else if (!word.startsWith('-')) given++
  }
  const all = command.registeredArguments
  return all[given] ?? (all.at(-1)?.variadic ? all.at(-1) : undefined)
}

/** Bridges are not for giving away; an address that was named already is not named again. */
function addressesOf(devices: readonly PciDevice[], begun: string, named: readonly string[]): Candidate[] {
  return devices.flatMap((device) => {
    const { address, headerType } = device
    const short = address.replace(/^0000:/, '')
    if (headerType === 'bridge' || named.includes(address) || named.includes(short)) return []
    const word = [short, address].find((form) => form.startsWith(begun))
    return word === undefined ? [] : [{ word, about: firstLine(deviceName(device)) }]
  })
}

/** `vfio __complete WORD…`: asked by the shells, a line for each candidate: the word, a tab, what it is. */
export const completeFor = (vfio: Command): void => {
  vfio
    .command('__complete', { hidden: true })
    .argument('[word...]')
    .allowUnknownOption()
    .helpOption(false)
    .action(
      run((words: readonly string[]) => {
        const devices = () => new Host().snapshot({ brief: true }).devices
        for (const { word, about } of complete(vfio, words, devices)) print(`${word}\t${about}\n`)
        return 0
      }),
    )
}
