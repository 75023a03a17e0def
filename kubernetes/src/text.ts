/** What steers a terminal, or shows as something else. */
const STEERING = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu

/** A text of somebody else's choice, which shows whatever is in it and steers nothing. */
export const printable = (text: string): string =>
  text.replace(STEERING, (found) =>
    [...found].map((char) => `\\u${(char.codePointAt(0) ?? 0).toString(16).padStart(4, '0')}`).join(''),
  )
