export function buildEnvironment(): NodeJS.ProcessEnv
