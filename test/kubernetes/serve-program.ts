// The plugin as its command serves it, on a host of the tests: it is killed, and gets signals, from outside.
import { Host } from 'vfio'
import { readConfig } from '../../kubernetes/src/config.js'
import { toStandardError } from '../../kubernetes/src/log.js'
import { serve } from '../../kubernetes/src/serve.js'
import type { HostTrees } from '../fixtures/host.js'

const { trees, config, kubeletDir, cdi, port } = JSON.parse(process.argv[2] ?? '') as {
  readonly trees: HostTrees
  readonly config: string
  readonly kubeletDir: string
  readonly cdi: string
  readonly port?: number
}

try {
  process.exitCode = await serve(
    { config, kubeletDir, ...(port !== undefined && { port }) },
    readConfig(config),
    toStandardError,
    { host: new Host(trees), cdiDirectories: [cdi], specifications: cdi },
  )
} catch (error) {
  toStandardError((error as Error).message)
  process.exitCode = 1
}
