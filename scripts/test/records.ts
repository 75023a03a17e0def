/** What a suite tells the runner: one record on a line of its own, among whatever the tests print; seconds are wall time. */
export type SuiteRecord =
  | { readonly kind: 'passed'; readonly title: string; readonly seconds: number }
  | { readonly kind: 'failed'; readonly title: string; readonly detail: string; readonly seconds: number }
  | { readonly kind: 'skipped'; readonly title: string; readonly reason: string }
  | { readonly kind: 'ended' }

/** ASCII record separator (RFC 7464), which no test prints by accident. */
const MARK = '\u001e'

export function writeRecord(record: SuiteRecord): string {
  return `${MARK}${JSON.stringify(record)}\n`
}

/** The record on a line, or null when the line is something that a test printed. */
export function readRecord(line: string): { before: string; record: SuiteRecord } | null {
  const at = line.indexOf(MARK)
  if (at < 0) return null
  return { before: line.slice(0, at), record: JSON.parse(line.slice(at + 1)) as SuiteRecord }
}
