export function toolsDirectory(suite: 'package' | 'kubernetes'): string
export function hasTools(): boolean
export function fetchTools(log: number | 'inherit'): void
