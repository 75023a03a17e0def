/** How long a step may say nothing. */
const QUIET_SECONDS = 20

/** Tells every {@link QUIET_SECONDS} seconds that `work` goes on, and how far it is. */
export async function withProgress<T>(
  say: (line: string) => void,
  state: (seconds: number) => string,
  work: () => Promise<T>,
): Promise<T> {
  const began = Date.now()
  const timer = setInterval(() => say(state(Math.round((Date.now() - began) / 1000))), QUIET_SECONDS * 1000)
  try {
    return await work()
  } finally {
    clearInterval(timer)
  }
}
