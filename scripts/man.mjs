// Writes a manual page for the program and one for each command, from what the commands declare.
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { build } from 'esbuild'

/** What each exit status stands for, in the order of the numbers. */
const STATUSES = [
  'Done, or ready.',
  'Not ready, not possible, or failed.',
  'Wrong usage, or no such device, group or user.',
  'The kernel refused a call.',
]

/**
 * @param common how the library and the command line are bundled
 * @param dist where both were built to
 */
export async function writeManual(common, dist, out) {
  const root = common.absWorkingDir
  // Beside the command line, since it imports the library from there.
  const file = join(root, dist, 'cli/declarations.js')
  const contents = `export { program } from './lib/cli/commands.ts'; export { EXAMPLES } from './lib/cli/examples.ts'`
  await build({
    ...common,
    stdin: { contents, resolveDir: root },
    outfile: file,
    external: ['../index.js'],
  })
  const { program, EXAMPLES } = await import(pathToFileURL(file).href)
  rmSync(file)
  mkdirSync(join(root, out), { recursive: true })
  const vfio = program()
  const commands = vfio.commands.filter((command) => !command.name().startsWith('__'))
  const write = (name, lines) => writeFileSync(join(root, out, `${name}.1`), `${lines.join('\n')}\n`)
  for (const command of commands) write(`vfio-${command.name()}`, pageOf(command, EXAMPLES))
  write('vfio', mainPage(vfio, commands))
}

/** The day of the build, unless that is to be the same each time. */
function day() {
  const seconds = process.env.SOURCE_DATE_EPOCH
  const date = seconds === undefined ? new Date() : new Date(Number(seconds) * 1000)
  return date.toLocaleDateString('en-US', { year: 'numeric', month: 'long', day: 'numeric', timeZone: 'UTC' })
}

/** Text that is no macro and has no sign beyond ASCII but by name. */
const escaped = (text) =>
  text
    .replaceAll('\\', '\\e')
    .replace(
      /[^\0-\u007f]/gu,
      (sign) => `\\[u${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}]`,
    )
    .replace(/(^|\s)--(?=\s|$)/g, '$1\\-\\-')
    .replace(/^([.'])/, '\\&$1')

const WIDTH = 76

/** Lines of text: no long one, and each sentence on a line of its own. */
function text(sentences) {
  const lines = ['']
  for (const word of escaped(sentences).split(/\s+/)) {
    const last = lines.at(-1)
    if (last === '') lines[lines.length - 1] = word
    else if (/[.?!][)"]?$/.test(last) || last.length + word.length >= WIDTH)
      lines.push(word.replace(/^([.'])/, '\\&$1'))
    else lines[lines.length - 1] = `${last} ${word}`
  }
  return lines
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}${/[.?!]$/.test(text) ? '' : '.'}`

const head = (name, about) => [
  `.Dd ${day()}`,
  `.Dt ${name.toUpperCase()} 1`,
  '.Os',
  '.Sh NAME',
  `.Nm ${name}`,
  `.Nd ${escaped(about)}`,
]

const argumentOf = (argument) => {
  const name = `Ar ${escaped(argument.name())}${argument.variadic ? ' ...' : ''}`
  return argument.required ? `.${name}` : `.Op ${name}`
}

function choicesOf({ argChoices }) {
  return argChoices ? text(`One of ${argChoices.join(', ')}.`) : []
}

function optionsOf({ options }) {
  const shown = options.filter(({ hidden }) => !hidden)
  if (shown.length === 0) return []
  const items = shown.flatMap((option) => {
    const value = /[<[](.+)[>\]]$/.exec(option.flags)?.[1]
    const flags = [option.short, option.long].filter(Boolean).map((flag) => `Fl ${flag.slice(1)}`)
    const { description } = option
    return [
      `.It ${flags.join(' , ')}${value ? ` Ar ${escaped(value)}` : ''}`,
      ...text(sentence(description)),
      ...choicesOf(option),
    ]
  })
  return ['.Bl -tag -width Ds', ...items, '.El']
}

const exitStatus = () => [
  '.Sh EXIT STATUS',
  '.Bl -tag -width Ds',
  ...STATUSES.flatMap((about, status) => [`.It ${status}`, about]),
  '.El',
]

/** A command below a command. */
const below = (command) => [
  `.Ss ${escaped(command.name())}${command.registeredArguments.map((argument) => ` ${escaped(argument.name())}`).join('')}`,
  ...text(sentence(command.description())),
  ...optionsOf(command),
]

function pageOf(command, examples) {
  const name = `vfio-${command.name()}`
  const takes = command.registeredArguments
  return [
    ...head(name, command.description().replace(/\. .*$/s, '')),
    '.Sh SYNOPSIS',
    `.Nm vfio ${command.name()}`,
    '.Op Ar options',
    ...takes.map(argumentOf),
    '.Sh DESCRIPTION',
    ...text(sentence(command.description())),
    ...(takes.length > 0
      ? [
          '.Bl -tag -width Ds',
          ...takes.flatMap((argument) => [
            `.It Ar ${escaped(argument.name())}`,
            ...text(sentence(argument.description || argument.name())),
            ...choicesOf(argument),
          ]),
          '.El',
        ]
      : []),
    ...command.commands.flatMap(below),
    ...(command.options.length > 0 ? ['.Pp', 'The options are:', ...optionsOf(command)] : []),
    ...exitStatus(),
    '.Sh EXAMPLES',
    ...(examples[command.name()] ?? [])
      .flatMap(([typed, does]) => [...text(sentence(does)), '.Pp', `.Dl ${escaped(typed)}`, '.Pp'])
      .slice(0, -1),
    '.Sh SEE ALSO',
    '.Xr vfio 1',
  ]
}

const mainPage = (vfio, commands) => [
  ...head('vfio', vfio.description()),
  '.Sh SYNOPSIS',
  '.Nm',
  '.Ar command',
  '.Op Ar options',
  '.Op Ar argument ...',
  '.Sh DESCRIPTION',
  ...text(`${sentence(vfio.description())} The commands are:`),
  '.Bl -tag -width Ds',
  ...commands.flatMap((command) => [`.It Cm ${command.name()}`, ...text(sentence(command.description()))]),
  '.El',
  '.Pp',
  'The options are:',
  ...optionsOf(vfio),
  ...exitStatus(),
  '.Sh SEE ALSO',
  ...commands
    .map((command) => `vfio-${command.name()}`)
    .sort()
    .map((name, index, all) => `.Xr ${name} 1${index < all.length - 1 ? ' ,' : ''}`),
]
