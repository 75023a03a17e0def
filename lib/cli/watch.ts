import {
  changesBetween,
  type DeviceEvent,
  isInfrastructure,
  type Survey,
  type SurveyChange,
  shortAddress,
  shortly,
  VfioError,
  type Watch,
  watchDevices,
} from '../index.js'
import type { ListEvent } from './answers.js'
import { note, print, readable, throughStreams, toJson, wrap } from './output.js'
import { type Column, HEAD, layOut, type Row, render, type Style, toLine, toRow } from './overview.js'
import { Screen } from './screen.js'
import { type Ending, untilStopped } from './signals.js'

/** What `vfio list --watch` follows. */
export interface Following {
  /** Looks at the host and judges it. */
  look(isFirst: boolean): Survey
  /** The part of it that is wanted. */
  fits(all: Survey): Survey
  readonly style: Style
  readonly isJson: boolean
  /** In the place of the kernel, for tests. */
  readonly listen?: Listen
}

type Listen = (listener: (event: DeviceEvent) => void) => Pick<Watch, 'hears' | 'unseen' | 'close'>

const listenToAll: Listen = (listener) => watchDevices('all', listener, { opens: true })

/** Prints an overview, and then what happens to what is in it, until a signal comes or nobody reads on. */
export const follow = (following: Following): Promise<number> =>
  untilStopped((ending) => new Follower(following, ending))

/** Where it is told. */
interface Teller {
  begin(chosen: Survey): void
  /** What has changed of what is wanted, and how all of that stands now. */
  tell(changes: readonly SurveyChange[], chosen: Survey): void
  lost(what: string): void
  end(): void
}

class Follower implements Disposable {
  readonly #following: Following
  readonly #ending: Ending
  readonly #watch: ReturnType<Listen>
  readonly #teller: Teller
  #all: Survey
  #chosen: Survey
  #heard: DeviceEvent[] = []
  #isOver = false
  #unheard = 0

  constructor(following: Following, ending: Ending) {
    const { look, fits, style, isJson, listen = listenToAll } = following
    this.#following = following
    this.#ending = ending
    // Before the first look, so that nothing comes in between.
    this.#watch = listen((event) => this.#hear(event))
    try {
      checkHearing(this.#watch)
      this.#all = look(true)
      this.#chosen = fits(this.#all)
    } catch (error) {
      this.#watch.close()
      throw error
    }
    this.#teller = isJson ? new JsonLines() : Screen.isPossible() ? new Table(style) : new Lines(style)
    throughStreams()
    process.stdout.on('error', this.#onError)
    this.#teller.begin(this.#chosen)
    this.#tellUnheard()
  }

  /** What cannot be heard, once: without it nothing would look as if nothing happened. */
  #tellUnheard(): void {
    const { unseen } = this.#watch
    for (const sentence of unseen.slice(this.#unheard)) this.#teller.lost(sentence)
    this.#unheard = unseen.length
  }

  [Symbol.dispose](): void {
    this.#isOver = true
    this.#watch.close()
    this.#teller.end()
    process.stdout.off('error', this.#onError)
  }

  /** Whoever reads has seen enough, or is gone. */
  readonly #onError = ({ code }: NodeJS.ErrnoException) => this.#ending.over(code === 'EPIPE' ? 0 : 1)

  #hear(event: DeviceEvent): void {
    // What else has come by then is told by the same look.
    if (this.#heard.length === 0) setImmediate(() => this.#update())
    this.#heard.push(event)
  }

  #update(): void {
    if (this.#isOver) return
    const heard = this.#heard
    this.#heard = []
    try {
      for (const { kind, what } of heard) if (kind === 'lost') this.#teller.lost(what)
      // A source of events that broke does not come back.
      checkHearing(this.#watch)
      this.#tellUnheard()
      const { look, style, isJson } = this.#following
      // Programs have got all that there is.
      const showsAll = isJson || style.showsAll
      const now = look(false)
      const chosen = this.#choose(now)
      const wanted = new Set([this.#chosen, chosen].flatMap((one) => namesIn(one, showsAll)))
      const changes = changesBetween(this.#all, now, heard).filter(({ address }) => wanted.has(address))
      this.#all = now
      this.#chosen = chosen
      this.#teller.tell(changes, chosen)
    } catch (error) {
      this.#ending.fail(error)
    }
  }

  /** The group that was asked for may go, and come again. */
  #choose(now: Survey): Survey {
    try {
      return this.#following.fits(now)
    } catch (error) {
      if (!(error instanceof VfioError) || error.code !== 'ERR_VFIO_NO_GROUP') throw error
      return { host: now.host, groups: [], devices: [] }
    }
  }
}

/** @throws VfioError where it would wait for ever */
function checkHearing({ hears, unseen }: Pick<Watch, 'hears' | 'unseen'>): void {
  if (!hears.has('devices')) throw new VfioError('ERR_VFIO_NO_EVENTS', unseen.join('; '))
}

const namesIn = ({ devices, mediated = [] }: Survey, showsAll: boolean): string[] => [
  ...devices.filter((device) => showsAll || !isInfrastructure(device)).map(({ address }) => address),
  ...mediated.map(({ uuid }) => uuid),
]

/** For programs. */
class JsonLines implements Teller {
  begin(list: Survey): void {
    this.#print({ event: 'list', list })
  }

  tell(changes: readonly SurveyChange[]): void {
    for (const change of changes) this.#print(change)
  }

  lost(what: string): void {
    this.#print({ event: 'lost', what })
  }

  end(): void {}

  #print(event: ListEvent): void {
    print(toJson(event))
  }
}

/** Of a change, for people. */
const WORDS = { 'release-requested': 'wanted' } as const
const WORD_WIDTH = 'corrected'.length

/** A line for each change, in a pipe or where nothing can be drawn. */
class Lines implements Teller {
  readonly #style: Style
  #columns: readonly Column[] = []

  constructor(style: Style) {
    this.#style = style
  }

  begin(chosen: Survey): void {
    const rows = rowsOf(chosen, this.#style)
    this.#columns = layOut(rows, WORD_WIDTH + 1)
    print(this.#line('CHANGE', HEAD))
  }

  tell(changes: readonly SurveyChange[]): void {
    for (const change of changes)
      print(readable(change, (harmless) => this.#line(wordOf(harmless), rowOfChange(harmless))))
  }

  lost(what: string): void {
    note(`vfio: ${what}`)
  }

  end(): void {}

  #line(word: string, row: Row): string {
    return `${[word.padEnd(WORD_WIDTH), ...toLine(row, this.#columns)].join(' ').trimEnd()}\n`
  }
}

const wordOf = ({ event }: SurveyChange) => (event === 'release-requested' ? WORDS[event] : event)

const rowsOf = ({ devices }: Survey, { showsAll }: Style): Row[] =>
  devices
    .filter((device) => showsAll || !isInfrastructure(device))
    .map((device) => toRow(device, groupOf(device)))

const groupOf = ({ group }: { readonly group: number | null }) => String(group ?? '-')

/** How the device stands now, in the columns of `vfio list`, and why where that is not plain. */
function rowOfChange({ event, what, device }: SurveyChange): Row {
  const group = groupOf(device)
  const row =
    'uuid' in device
      ? [group, device.uuid, 'mdev', device.driver ?? '-', device.verdict, '', '', '-', device.type ?? '']
      : toRow(device, group)
  const [name = ''] = row.slice(-1)
  if (event === 'removed') return [...row.slice(0, 3), '-', '-', '', '', '-', name]
  const isPlain = event === 'opened' || event === 'closed' || (event in PLAIN && device.verdict !== 'blocked')
  return isPlain ? row : [...row.slice(0, -1), `${name}: ${shortly(event in PLAIN ? device.reason : what)}`]
}

/** What shows in the other columns. */
const PLAIN = { added: 1, bound: 1, unbound: 1, changed: 1 }

/** How many of the last changes stand below the table. */
const RECENT = 3

/** The table itself, kept as it is now, on a terminal. */
class Table implements Teller {
  readonly #style: Style
  readonly #screen: Screen
  readonly #recent: string[] = []
  #chosen: Survey | null = null
  #marked: ReadonlySet<string> = new Set()

  constructor(style: Style) {
    this.#style = style
    this.#screen = Screen.open(() => this.#lines())
  }

  begin(chosen: Survey): void {
    this.#chosen = chosen
    this.#screen.draw()
  }

  tell(changes: readonly SurveyChange[], chosen: Survey): void {
    this.#chosen = chosen
    if (changes.length > 0) this.#marked = new Set(changes.map(({ address }) => address))
    for (const change of changes) this.#note(`${wordOf(change)} ${sentenceOf(change)}`)
    this.#screen.draw()
  }

  lost(what: string): void {
    this.#note(what)
  }

  end(): void {
    this.#screen.close()
  }

  #note(text: string): void {
    this.#recent.push(`${new Date().toLocaleTimeString('en-GB')} ${text}`)
    this.#recent.splice(0, this.#recent.length - RECENT)
  }

  #lines(): string[] {
    if (this.#chosen === null) return []
    const table = readable(this.#chosen, (chosen) => render(chosen, this.#style, this.#marked))
    const recent = readable(this.#recent, (texts) => texts.map((text) => wrap(text, 9, '')).join('\n'))
    return [...table.trimEnd().split('\n'), ...(recent === '' ? [] : ['', ...recent.split('\n')])]
  }
}

const sentenceOf = ({ address, what }: SurveyChange) =>
  what.startsWith(address) ? shortly(what) : `${shortAddress(address)}: ${shortly(what)}`
