import { printable } from '../../text.js'

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}

/** A text of somebody else's choice as text of XML or HTML, in an element or in a quoted attribute; steers nothing there. */
export const escaped = (text: string): string =>
  printable(text)
    // XML knows no such characters, not even escaped.
    .replace(/[\ufffe\uffff]/g, '?')
    .replace(/[&<>"']/g, (mark) => ENTITIES[mark] ?? mark)
