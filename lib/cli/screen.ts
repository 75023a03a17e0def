import { cut } from '../columns.js'
import { colour, isTerminal, width } from './output.js'

const ESCAPE = '\u001b['
const HOME = `${ESCAPE}H`
const CLEAR_LINE = `${ESCAPE}K`
const CLEAR_BELOW = `${ESCAPE}J`
/** What is longer than a line is cut by the terminal, and not continued. */
const WRAP_OFF = `${ESCAPE}?7l`
const WRAP_ON = `${ESCAPE}?7h`

/** Of the window: what does not tell has as many as a terminal of old. */
const rows = () => Math.max(4, process.stdout.rows || 24)

/** Lines that are kept as they are now in the window of a terminal. Each drawing leaves the terminal as it found it. */
export class Screen {
  readonly #lines: () => readonly string[]

  private constructor(lines: () => readonly string[]) {
    this.#lines = lines
  }

  /** Whether standard output is a terminal whose cursor moves. */
  static isPossible(): boolean {
    return isTerminal() && process.env.TERM !== 'dumb' && process.env.TERM !== undefined
  }

  /** @param lines what is to stand there, made anew for each size of the window */
  static open(lines: () => readonly string[]): Screen {
    const screen = new Screen(lines)
    // What is in the window goes up, to where it can be looked at.
    process.stdout.write('\n'.repeat(rows() - 1))
    process.stdout.on('resize', screen.#onResize)
    process.on('SIGCONT', screen.#onResize)
    return screen
  }

  draw(): void {
    const lines = this.#cut(this.#lines())
    const text = lines.map((line) => `${line}${CLEAR_LINE}\n`).join('')
    process.stdout.write(`${WRAP_OFF}${HOME}${text}${CLEAR_BELOW}${WRAP_ON}`)
  }

  /** The cursor stands below what was drawn. */
  close(): void {
    process.stdout.off('resize', this.#onResize)
    process.off('SIGCONT', this.#onResize)
    // Behind the `^C` that the terminal shows.
    process.stdout.write('\n')
  }

  readonly #onResize = () => this.draw()

  /** The last line is the cursor's. */
  #cut(lines: readonly string[]): readonly string[] {
    const room = rows() - 1
    if (lines.length <= room) return lines
    const hidden = lines.length - room + 1
    const more = `${hidden} more lines: a higher window shows them, or choose fewer devices`
    return [...lines.slice(0, room - 1), colour.faint(cut(more, width()))]
  }
}
