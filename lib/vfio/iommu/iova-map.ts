/** Something mapped at I/O virtual addresses; `end` is the last one. */
export interface IovaSpan {
  readonly start: bigint
  readonly end: bigint
}

/** Large enough that there are few pieces, small enough that inserting into one is quick. */
const MOST_IN_PIECE = 512

/** Spans that do not overlap, in order, in pieces: adding and removing stays quick with many thousands of them. */
export class IovaMap<T extends IovaSpan> {
  readonly #pieces: T[][] = []
  #size = 0

  get size(): number {
    return this.#size
  }

  /** Adds a span; false where it overlaps another, and then it is not added. */
  add(span: T): boolean {
    const place = this.#pieceFor(span.start)
    const piece = this.#pieces[place]
    if (!piece) {
      this.#pieces.push([span])
      this.#size++
      return true
    }
    const at = firstFrom(piece, span.start)
    if (this.#isTaken(span.start, span.end, place, at)) return false
    this.#size++
    // Most come behind all others, and go from there: splice() takes as long as the kernel does.
    if (at === piece.length) piece.push(span)
    else piece.splice(at, 0, span)
    if (piece.length > MOST_IN_PIECE)
      this.#pieces.splice(place + 1, 0, piece.splice(MOST_IN_PIECE / 2, MOST_IN_PIECE))
    return true
  }

  /** Takes a span out; false where it is not there. */
  delete(span: T): boolean {
    const last = this.#pieces.length - 1
    const end = this.#pieces[last]
    const isLast = end !== undefined && end.length > 0 && end[end.length - 1] === span
    const place = isLast ? last : this.#pieceFor(span.start)
    const piece = this.#pieces[place]
    if (!piece) return false
    const at = isLast ? piece.length - 1 : firstFrom(piece, span.start)
    if (piece[at] !== span) return false
    this.#size--
    if (at === piece.length - 1) piece.pop()
    else piece.splice(at, 1)
    // The only one waits for what comes next.
    if (piece.length === 0 && this.#pieces.length > 1) this.#pieces.splice(place, 1)
    return true
  }

  has(span: T): boolean {
    const piece = this.#pieces[this.#pieceFor(span.start)]
    return piece?.[firstFrom(piece, span.start)] === span
  }

  clear(): void {
    this.#pieces.length = 0
    this.#size = 0
  }

  *[Symbol.iterator](): IterableIterator<T> {
    for (const piece of this.#pieces) yield* piece
  }

  /** Is there one that has an address in the range? */
  overlaps(start: bigint, end: bigint): boolean {
    const place = this.#pieceFor(start)
    const piece = this.#pieces[place]
    return piece !== undefined && this.#isTaken(start, end, place, firstFrom(piece, start))
  }

  /** The same where the first that begins at `start` or later is known: only it and the one before can be in the way. */
  #isTaken(start: bigint, end: bigint, place: number, at: number): boolean {
    const piece = this.#pieces[place] as T[]
    // The compiler has no quick way to index -1.
    const before = at > 0 ? piece[at - 1] : undefined
    if (before && before.end >= start) return true
    const next = at < piece.length ? piece[at] : this.#pieces[place + 1]?.[0]
    return next !== undefined && next.start <= end
  }

  /** Those that lie in the range entirely, in order. */
  within(start: bigint, end: bigint): T[] {
    const found: T[] = []
    for (let place = this.#pieceFor(start); place < this.#pieces.length; place++) {
      const piece = this.#pieces[place] ?? []
      for (let at = firstFrom(piece, start); at < piece.length; at++) {
        const span = piece[at]
        if (!span || span.start > end) return found
        if (span.end <= end) found.push(span)
      }
    }
    return found
  }

  /** Those that have an address in the range, in order. */
  *overlapping(start: bigint, end: bigint): IterableIterator<T> {
    for (let place = Math.max(0, this.#pieceFor(start) - 1); place < this.#pieces.length; place++) {
      for (const span of this.#pieces[place] ?? []) {
        if (span.start > end) return
        if (span.end >= start) yield span
      }
    }
  }

  /** The lowest aligned address from `from` to `to` where `size` bytes are free; null where there is none. */
  gap(from: bigint, to: bigint, size: bigint, alignment: bigint): bigint | null {
    let candidate = alignUp(from, alignment)
    for (const span of this.overlapping(from, to)) {
      if (span.start > candidate && span.start - candidate >= size) break
      if (span.end >= candidate) candidate = alignUp(span.end + 1n, alignment)
    }
    return candidate + size - 1n <= to ? candidate : null
  }

  /** The last piece that begins at or before `start`, or the first. */
  #pieceFor(start: bigint): number {
    let low = 0
    let high = this.#pieces.length
    while (low < high) {
      const middle = (low + high) >> 1
      const first = this.#pieces[middle]?.[0]
      if (first && first.start <= start) low = middle + 1
      else high = middle
    }
    return Math.max(0, low - 1)
  }
}

/** The place of the first span that begins at `start` or later. */
function firstFrom(piece: readonly IovaSpan[], start: bigint): number {
  let low = 0
  let high = piece.length
  while (low < high) {
    const middle = (low + high) >> 1
    const span = piece[middle]
    if (span && span.start < start) low = middle + 1
    else high = middle
  }
  return low
}

const alignUp = (value: bigint, alignment: bigint) => ((value + alignment - 1n) / alignment) * alignment
