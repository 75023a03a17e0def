import type { Config } from './config.js'
import { readConfig } from './config.js'
import type { Log } from './log.js'
import { MetricsServer } from './metrics.js'
import { type Options, Plugin } from './plugin.js'

export interface ServeOptions {
  /** The file of the configuration, which SIGHUP lets be read anew. */
  readonly config: string
  readonly kubeletDir: string
  readonly port?: number
  readonly featuresDir?: string
}

/** Serves until SIGTERM or SIGINT comes. */
export async function serve(
  { config: file, kubeletDir, port, featuresDir }: ServeOptions,
  config: Config,
  log: Log,
  more: Partial<Options> = {},
): Promise<number> {
  const plugin = new Plugin(config, {
    kubeletDirectory: kubeletDir,
    featuresDirectory: featuresDir,
    log,
    ...more,
  })
  const metrics = port === undefined ? null : new MetricsServer(() => plugin.health())
  const stop = () => void plugin.stop()
  const readAnew = () => void reread(plugin, file, log)
  process.on('SIGTERM', stop).on('SIGINT', stop).on('SIGHUP', readAnew)
  try {
    if (metrics !== null)
      log(`/metrics, /livez and /healthz are served on port ${await metrics.listen(port ?? 0)}`)
    await plugin.start()
    await plugin.ended
  } finally {
    process.off('SIGTERM', stop).off('SIGINT', stop).off('SIGHUP', readAnew)
    metrics?.close()
    await plugin.stop()
  }
  return 0
}

async function reread(plugin: Plugin, file: string, log: Log): Promise<void> {
  let config: Config
  try {
    config = readConfig(file)
  } catch (error) {
    for (const line of (error as Error).message.split('\n')) log(line)
    log('the configuration stays what it was')
    return
  }
  try {
    await plugin.reconfigure(config)
    log('the configuration was read anew')
  } catch (error) {
    plugin.fail(error)
  }
}
