/** A word as a POSIX shell reads it back unchanged: quoted only where it has to be. */
function shellWord(word: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`
}

/** A command's arguments, each option with its value on a line of its own, to be pasted behind the command. */
export function shellLines(options: readonly (readonly string[])[]): string {
  return `${options.map((words) => words.map(shellWord).join(' ')).join(' \\\n')}\n`
}
