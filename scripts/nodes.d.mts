export const nodeLines: readonly string[]
export function nodeProgram(line: string): string | undefined
