export function buildEnvironment(): NodeJS.ProcessEnv
export function headersDirectory(): string | undefined
