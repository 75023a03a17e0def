// Writes what the JSON of each command looks like, as JSON Schema: made from the types that the commands print.
import { mkdirSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import {
  AnnotatedType,
  createFormatter,
  createParser,
  createProgram,
  SchemaGenerator,
  StringType,
} from 'ts-json-schema-generator'

// The compiler that the generator brings has other numbers than ours.
const require = createRequire(import.meta.resolve('ts-json-schema-generator'))
const { SyntaxKind } = require('typescript')

/** A bigint is printed as `0x…`. */
const bigints = {
  supportsNode: ({ kind }) => kind === SyntaxKind.BigIntKeyword,
  createType: () => new AnnotatedType(new StringType(), { pattern: '^0x[0-9a-f]+$' }, false),
}

/** Commands whose JSON is another option's, and has an event for what fails. */
const EVENTS = { run: '--json-events' }

const OLD = '#/definitions/'

/**
 * @param types the declarations that `interface Answers` and `interface Failure` are in
 * @param out directory for `COMMAND.json`
 */
export function writeSchemas(types, tsconfig, out) {
  const config = {
    path: `${types}/cli/answers.d.ts`,
    tsconfig,
    skipTypeCheck: true,
    topRef: false,
    expose: 'all',
    jsDoc: 'extended',
    additionalProperties: true,
  }
  const program = createProgram(config)
  const parser = createParser(program, config, (chain) => chain.addNodeParser(bigints))
  const generator = new SchemaGenerator(program, parser, createFormatter(config), config)
  const answers = generator.createSchema('Answers')
  const failure = generator.createSchema('Failure')
  const definitions = { ...answers.definitions, ...failure.definitions }
  const { $schema: _, definitions: __, ...failed } = failure
  mkdirSync(out, { recursive: true })
  for (const [command, { description, ...answer }] of Object.entries(answers.properties)) {
    const used = {}
    const failures = command in EVENTS ? [] : [failed]
    const anyOf = [...(answer.anyOf ?? [answer]), ...failures].map((schema) =>
      moved(schema, definitions, used),
    )
    const schema = {
      $schema: 'https://json-schema.org/draft/2020-12/schema',
      title: `vfio ${command} ${EVENTS[command] ?? '--json'}`,
      ...(description !== undefined && { description }),
      anyOf,
      $defs: Object.fromEntries(Object.entries(used).sort(([a], [b]) => (a < b ? -1 : 1))),
    }
    writeFileSync(`${out}/${command}.json`, `${JSON.stringify(schema)}\n`)
  }
}

/** A schema in the words of 2020-12, with what it refers to in `used`; types without a name of their own stand in place. */
function moved(schema, definitions, used) {
  if (Array.isArray(schema)) return schema.map((part) => moved(part, definitions, used))
  if (typeof schema !== 'object' || schema === null) return schema
  if (Array.isArray(schema.items)) throw new Error(`a tuple is not translated yet: ${JSON.stringify(schema)}`)
  const { $ref, ...rest } = schema
  const parts = Object.fromEntries(
    Object.entries(rest).map(([key, value]) => [key, moved(value, definitions, used)]),
  )
  if ($ref === undefined) return parts
  const name = decodeURIComponent($ref.slice(OLD.length))
  if (!/^\w+$/.test(name)) return { ...moved(definitions[name], definitions, used), ...parts }
  if (!(name in used)) {
    used[name] = null
    used[name] = moved(definitions[name], definitions, used)
  }
  return { $ref: `#/$defs/${name}`, ...parts }
}
