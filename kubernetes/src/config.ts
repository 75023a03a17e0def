import { readFileSync } from 'node:fs'
import { Ajv, type ErrorObject } from 'ajv'
import { parseAddress, VfioError } from 'vfio'
import { isMap, isNode, isPair, LineCounter, parseDocument } from 'yaml'
import { namesClass } from './class.js'
import { type Consumer, variableOf, whyRefused } from './names.js'
import { packaged } from './package.js'
import { printable } from './text.js'

/** Of what is given all has to fit, of a list any. */
export interface Selector {
  /** In the form of sysfs. */
  readonly address?: readonly string[]
  /** In small letters. */
  readonly ids?: readonly string[]
  readonly class?: readonly string[]
  readonly driver?: readonly string[]
  readonly numa?: readonly number[]
}

/** Devices of one name, which the scheduler counts. */
export interface Resource {
  readonly name: string
  readonly consumer: Consumer
  readonly select: readonly Selector[]
  readonly primary: Selector | null
}

export interface Config {
  readonly resources: readonly Resource[]
}

/**
 * Reads a configuration, YAML or JSON.
 * @throws VfioError `ERR_VFIO_BAD_FILE` where it cannot be read; `ERR_VFIO_BAD_ARGUMENT` with a line for each mistake
 */
export function readConfig(path: string): Config {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new VfioError(
      'ERR_VFIO_BAD_FILE',
      `the configuration cannot be read: ${printable((error as Error).message)}`,
    )
  }
  return parseConfig(text, path)
}

/** @throws VfioError `ERR_VFIO_BAD_ARGUMENT` with a line for each mistake: file, line, column, sentence */
export function parseConfig(text: string, file: string): Config {
  const source = new Source(text, file)
  const value = source.value()
  const validate = validator()
  if (!validate(value)) {
    for (const error of validate.errors ?? []) source.refuseByForm(error)
    source.throwMistakes()
  }
  const config = normalised(value as Written)
  checkClasses(value as Written, source)
  checkNames(config, source)
  checkSelectors(config, source)
  source.throwMistakes()
  return config
}

type OneOrMore<T> = T | readonly T[]

/** What the schema lets through. */
interface Written {
  readonly resources: readonly {
    readonly name: string
    readonly consumer: Consumer
    readonly select: readonly WrittenSelector[]
    readonly primary?: WrittenSelector
  }[]
}

type WrittenSelector = {
  readonly [K in keyof Selector]: OneOrMore<NonNullable<Selector[K]>[number]>
}

let compiled: ReturnType<Ajv['compile']> | undefined
function validator() {
  compiled ??= new Ajv({
    allErrors: true,
    strict: true,
    allowMatchingProperties: true,
    verbose: true,
  }).compile(JSON.parse(readFileSync(packaged('schemas/config.json'), 'utf8')))
  return compiled
}

type Path = readonly (string | number)[]

/** A text with the places of what is in it. */
class Source {
  readonly #file: string
  readonly #lines = new LineCounter()
  readonly #document: ReturnType<typeof parseDocument>
  readonly #mistakes: { readonly offset: number; readonly what: string }[] = []

  constructor(text: string, file: string) {
    this.#file = file
    this.#document = parseDocument(text, { lineCounter: this.#lines, prettyErrors: false })
    for (const { pos, message } of this.#document.errors) this.#refuseAt(pos[0], oneLine(message))
    this.throwMistakes()
  }

  value(): unknown {
    try {
      return this.#document.toJS()
    } catch (error) {
      this.#refuseAt(0, oneLine((error as Error).message))
      return this.throwMistakes()
    }
  }

  refuse(path: Path, what: string): void {
    this.#refuseAt(this.#offsetOf(path), what)
  }

  /** A mistake that the schema found. */
  refuseByForm(error: ErrorObject): void {
    const path = error.instancePath
      .split('/')
      .slice(1)
      .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
    // What `if` leads to says itself what is wrong.
    if (error.keyword === 'if') return
    if (error.keyword === 'additionalProperties') path.push(String(error.params.additionalProperty))
    this.refuse(path, sentenceOf(error, path))
  }

  throwMistakes(): undefined {
    if (this.#mistakes.length === 0) return
    const lines = this.#mistakes
      .toSorted((one, other) => one.offset - other.offset)
      .map(({ offset, what }) => {
        const { line, col } = this.#lines.linePos(offset)
        return `${printable(this.#file)}:${line}:${col}: ${printable(what)}`
      })
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', [...new Set(lines)].join('\n'))
  }

  #refuseAt(offset: number, what: string): void {
    this.#mistakes.push({ offset, what })
  }

  /** Of a property its name, else the value; of what is not there what it would be in. */
  #offsetOf(path: Path): number {
    let offset = 0
    let node: unknown = this.#document.contents
    for (const [at, key] of ['', ...path].entries()) {
      if (at > 0) {
        const pair = isMap(node) ? node.items.find((item) => isPair(item) && nameOf(item.key) === key) : null
        if (isNode(pair?.key) && pair.key.range) offset = pair.key.range[0]
        node = pair ? pair.value : this.#document.getIn(path.slice(0, at), true)
        if (pair) continue
      }
      if (!isNode(node)) break
      if (node.range) offset = node.range[0]
    }
    return offset
  }
}

const nameOf = (key: unknown) =>
  isNode(key) && 'value' in key ? String((key as { value: unknown }).value) : String(key)
const oneLine = (text: string) => text.trim().replace(/\s+/g, ' ')

/** `resources[1].select[0].ids` */
const pathText = (path: Path) =>
  path.reduce<string>(
    (text, part) => (/^\d+$/.test(String(part)) ? `${text}[${part}]` : `${text}${text && '.'}${part}`),
    '',
  ) || 'the configuration'

const TYPES: Readonly<Record<string, string>> = {
  object: 'a mapping',
  array: 'a list',
  string: 'text',
  integer: 'a whole number',
}

function kindOf(value: unknown): string {
  if (value === null || value === undefined) return 'empty'
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'object') return 'a mapping'
  return JSON.stringify(value)
}

function sentenceOf({ keyword, params, data, parentSchema }: ErrorObject, path: Path): string {
  const where = pathText(path)
  const described = (parentSchema as { description?: string } | undefined)?.description
  switch (keyword) {
    case 'type': {
      const isPlain = params.type === 'string' && ['number', 'boolean'].includes(typeof data)
      const cure = isPlain ? ': put it in quotes' : ''
      return `${where} is ${kindOf(data)}, and has to be ${TYPES[params.type] ?? params.type}${cure}`
    }
    case 'required':
      return `${where} has no "${params.missingProperty}"`
    case 'additionalProperties': {
      const known = Object.keys((parentSchema as { properties?: object } | undefined)?.properties ?? {})
      return `there is no ${pathText(path.slice(-1))} here: what there is is ${known.join(', ')}`
    }
    case 'enum':
      return `${where} is ${kindOf(data)}, and has to be one of ${params.allowedValues.join(', ')}`
    case 'minItems':
    case 'minProperties':
      return `${where} is empty, and has to have one entry at least`
    default:
      return `${where} is ${kindOf(data)}, and has to be ${described ?? keyword}`
  }
}

function normalised({ resources }: Written): Config {
  return {
    resources: resources.map(({ name, consumer, select, primary }) => ({
      name,
      consumer,
      select: select.map(selectorOf),
      primary: primary === undefined ? null : selectorOf(primary),
    })),
  }
}

const listOf = <T>(value: OneOrMore<T>): readonly T[] => (Array.isArray(value) ? value : [value as T])
const lower = (text: string) => text.toLowerCase()

function selectorOf(written: WrittenSelector): Selector {
  const { address, ids, class: words, driver, numa } = written
  return {
    ...(address !== undefined && { address: listOf(address).map(parseAddress) }),
    ...(ids !== undefined && { ids: listOf(ids).map(lower) }),
    ...(words !== undefined && { class: listOf(words).map(lower) }),
    ...(driver !== undefined && { driver: listOf(driver) }),
    ...(numa !== undefined && { numa: listOf(numa) }),
  }
}

/** What names no class would fit nothing, on whatever host. */
function checkClasses({ resources }: Written, source: Source): void {
  for (const [at, { select, primary }] of resources.entries()) {
    const selectors: readonly (readonly [Path, WrittenSelector])[] = [
      ...select.map((selector, index) => [['select', index], selector] as const),
      ...(primary === undefined ? [] : [[['primary'], primary] as const]),
    ]
    for (const [place, { class: words }] of selectors) {
      const isList = Array.isArray(words)
      for (const [index, word] of (words === undefined ? [] : listOf(words)).entries()) {
        if (namesClass(lower(word))) continue
        source.refuse(
          ['resources', at, ...place, 'class', ...(isList ? [index] : [])],
          `${JSON.stringify(word)} names no class: what does is a word of the column CLASS of "vfio list", such as "nvme", or the first two, four or six digits of the class code, such as "0300"`,
        )
      }
    }
  }
}

function checkNames({ resources }: Config, source: Source): void {
  const seen = new Map<string, string>()
  for (const [at, { name, consumer }] of resources.entries()) {
    const place = ['resources', at, 'name']
    const reason = whyRefused(name, consumer)
    if (reason !== null)
      source.refuse(place, `${JSON.stringify(name)} cannot be the name of a resource: ${reason}`)
    const variable = variableOf(name)
    const other = seen.get(variable)
    if (other === name) source.refuse(place, `${name} is there twice: one resource has one entry`)
    else if (other !== undefined) {
      source.refuse(
        place,
        `${name} and ${other} have one environment variable, ${variable}, so that a container could not tell whose addresses it has: rename one`,
      )
    }
    seen.set(variable, name)
  }
}

/** Selectors that say the same choose the same, on whatever host; what else overlaps the host tells. */
function checkSelectors({ resources }: Config, source: Source): void {
  const seen = new Map<string, string>()
  for (const [at, { name, select }] of resources.entries()) {
    for (const [index, selector] of select.entries()) {
      for (const text of alternatives(selector)) {
        const other = seen.get(text)
        if (other !== undefined && other !== name) {
          source.refuse(
            ['resources', at, 'select', index],
            `${name} selects what ${other} selects already, and one device cannot be two: take it out of one of them`,
          )
        }
        seen.set(text, name)
      }
    }
  }
}

/** Each way to fit, as a text that is the same for the same. */
function alternatives(selector: Selector): string[] {
  return Object.entries(selector)
    .sort(([one], [other]) => (one < other ? -1 : 1))
    .reduce<string[]>(
      (texts, [key, values]) =>
        texts.flatMap((text) => (values as readonly unknown[]).map((value) => `${text} ${key}=${value}`)),
      [''],
    )
}
