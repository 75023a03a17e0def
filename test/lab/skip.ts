/** Skips the running test and says why: the runner names the reason. */
export function skip(context: Mocha.Context, skipReason: string): never {
  Object.assign(context.test ?? {}, { skipReason })
  return context.skip()
}
