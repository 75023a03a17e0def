import { execFileSync } from 'node:child_process'

/** What a shared library asks of others and gives to them. */
export interface Symbols {
  /** The libraries that it names. */
  readonly needed: readonly string[]
  readonly defined: readonly string[]
  /** What others have to have; `version` as `GLIBC_2.28`, empty where there is none. */
  readonly wanted: readonly { readonly name: string; readonly version: string; readonly weak: boolean }[]
}

/** Reads a library of any processor, with objdump(1). */
export function inspect(file: string): Symbols {
  const objdump = (option: string) =>
    execFileSync('objdump', [option, file], { encoding: 'utf8' }).split('\n')
  const symbols = objdump('-T').flatMap((line) => {
    // Address, seven flags, section, size, version where there is one, visibility where it is not the default, name.
    const [, flags = '', section = '', rest = ''] =
      /^[0-9a-f]{8,16} (.{7}) (\S+)\s+[0-9a-f]+\s*(.*)$/.exec(line) ?? []
    const words = rest.split(/\s+/)
    const name = words.at(-1) ?? ''
    if (name === '') return []
    const version = words.find((word) => /^\(?GLIBC/.test(word))?.replace(/[()]/g, '') ?? ''
    return [{ name, version, weak: flags[1] === 'w', own: section !== '*UND*' }]
  })
  return {
    needed: objdump('-p').flatMap((line) => /^\s+NEEDED\s+(\S+)/.exec(line)?.[1] ?? []),
    defined: symbols.filter(({ own }) => own).map(({ name }) => name),
    wanted: symbols.filter(({ own }) => !own).map(({ name, version, weak }) => ({ name, version, weak })),
  }
}

/** The newest version of glibc that a library asks for, as `2.28`; null where it asks for none. */
export function neededGlibc({ wanted }: Symbols): string | null {
  const minors = wanted.flatMap(({ version }) => {
    const minor = /^GLIBC_2\.(\d+)/.exec(version)?.[1]
    return minor === undefined ? [] : [Number(minor)]
  })
  return minors.length === 0 ? null : `2.${Math.max(...minors)}`
}
