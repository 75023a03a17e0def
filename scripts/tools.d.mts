export function toolsDirectory(): string
export function hasTools(): boolean
export function fetchTools(log: number | 'inherit'): void
