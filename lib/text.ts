/**
 * What steers a terminal or shows as something else: control characters (C1 and DEL too), formatting (the direction of
 * text), all kinds of line ends, and the lone surrogates that stand for bytes which are no UTF-8.
 */
const STEERING = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu

/** What nearly all texts are: the table of all others takes long to make. */
const PLAIN = /^[ -~]*$/

/**
 * A text of somebody else's choice (names of devices, drivers, mounts and processes, what was typed) that shows whatever
 * is in it and steers nothing: such characters are written as JSON writes them, `\u001b`. JSON stays what it says.
 */
export const printable = (text: string): string =>
  PLAIN.test(text)
    ? text
    : text.replace(STEERING, (found) =>
        Array.from(
          { length: found.length },
          (_, at) => `\\u${found.charCodeAt(at).toString(16).padStart(4, '0')}`,
        ).join(''),
      )

/** What signs are in a locale without them, each as wide as it was. */
const ASCII: Readonly<Record<string, string>> = {
  '✓': '+',
  '✗': 'x',
  '×': 'x',
  '…': '~',
  '–': '-',
  '→': '>',
  '’': "'",
}

/** The same in ASCII, character by character: what has no likeness there is a question mark. */
export const inAscii = (text: string): string => text.replace(/[^\0-\u007f]/gu, (sign) => ASCII[sign] ?? '?')
