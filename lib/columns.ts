/** Cuts a text to a number of columns. */
export function cut(text: string, columns: number): string {
  return text.length <= columns ? text : `${text.slice(0, Math.max(0, columns - 1))}…`
}

/** Breaks a text into lines of a width; lines behind the first start at the same indent. */
export function wrapTo(width: number, text: string, indent: number, first = ' '.repeat(indent)): string {
  const room = width - indent
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > room) {
      lines.push(line)
      line = word
    } else {
      line = line === '' ? word : `${line} ${word}`
    }
  }
  lines.push(line)
  return `${first}${lines.join(`\n${' '.repeat(indent)}`)}`
}
