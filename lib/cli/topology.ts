import { Option } from 'commander'
import { describeTopology, exportTopology, type TopologyFormat } from '../index.js'
import { type Common, type Declare, json, look, run, sysfs } from './options.js'
import { colour, inLocale, print, showsUnicode, toJson, width } from './output.js'

interface TopologyOptions extends Common {
  readonly all?: boolean
  readonly svg?: boolean
  readonly html?: boolean
  readonly dot?: boolean
}

const PICTURES = ['svg', 'html', 'dot'] as const

/** `vfio topology`: the host as a tree, for the terminal, as a picture or as a page. */
export const topology: Declare = (vfio) => {
  vfio
    .command('topology')
    .description(
      'the host as a tree: what can go, what only together, what resets together, what would be lost',
    )
    .option('--all', 'bridges and parts of the machine too that nothing else hangs on')
    .addOption(new Option('--svg', 'a picture').conflicts(['html', 'dot', 'json']))
    .addOption(new Option('--html', 'a page in one file, with search and details').conflicts(['dot', 'json']))
    .addOption(new Option('--dot', 'for Graphviz').conflicts('json'))
    .addOption(json())
    .addOption(sysfs())
    .action(run(act))
}

function act(options: TopologyOptions): number {
  const seen = look(options)
  if (options.json) {
    print(toJson(describeTopology(seen)))
    return 0
  }
  const format: TopologyFormat = PICTURES.find((name) => options[name]) ?? 'text'
  const { text } = exportTopology(seen, {
    format,
    all: options.all,
    columns: width(),
    unicode: showsUnicode,
    paint: colour,
  })
  print(format === 'text' ? inLocale(text) : text)
  return 0
}
