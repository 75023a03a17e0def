import { classWord, isClassWord } from 'vfio'

const DIGITS = /^(?:[0-9a-f]{2}){1,3}$/

/** Can a word or digits, in small letters, name a class at all? */
export const namesClass = (word: string) => DIGITS.test(word) || isClassWord(word)

/** @param word as {@link namesClass} takes it */
export function isOfClass(code: number, word: string): boolean {
  const digits = DIGITS.test(word) && code.toString(16).padStart(6, '0').startsWith(word)
  return digits || classWord(code).toLowerCase() === word
}
