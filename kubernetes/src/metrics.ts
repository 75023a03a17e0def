import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { VfioError } from 'vfio'

/** What is counted of one resource. */
export interface Counts {
  readonly resource: string
  readonly healthy: number
  readonly unhealthy: number
  readonly inUse: number
  readonly listened: boolean
  readonly registrations: number
  readonly allocations: number
  readonly failures: number
}

export interface Health {
  readonly counts: readonly Counts[]
  /** Groups that were selected and belong to no resource. */
  readonly refused: number
  /** What keeps it from looking at the host; `null` for nothing. */
  readonly trouble: string | null
}

const METRICS: readonly {
  readonly name: string
  readonly type: 'gauge' | 'counter'
  readonly help: string
  readonly values: (counts: Counts) => readonly (readonly [labels: string, value: number])[]
}[] = [
  {
    name: 'vfio_device_plugin_devices',
    type: 'gauge',
    help: 'Devices that are offered to the kubelet, by state.',
    values: ({ healthy, unhealthy }) => [
      [',state="healthy"', healthy],
      [',state="unhealthy"', unhealthy],
    ],
  },
  {
    name: 'vfio_device_plugin_devices_in_use',
    type: 'gauge',
    help: 'Devices that are open through VFIO, as far as that is seen.',
    values: ({ inUse }) => [['', inUse]],
  },
  {
    name: 'vfio_device_plugin_registered',
    type: 'gauge',
    help: 'Whether the kubelet listens.',
    values: ({ listened }) => [['', listened ? 1 : 0]],
  },
  {
    name: 'vfio_device_plugin_registrations_total',
    type: 'counter',
    help: 'Registrations with the kubelet.',
    values: ({ registrations }) => [['', registrations]],
  },
  {
    name: 'vfio_device_plugin_allocations_total',
    type: 'counter',
    help: 'Devices that containers were given.',
    values: ({ allocations }) => [['', allocations]],
  },
  {
    name: 'vfio_device_plugin_allocation_failures_total',
    type: 'counter',
    help: 'Allocations that were refused.',
    values: ({ failures }) => [['', failures]],
  },
]

/** The text format of Prometheus, version 0.0.4. */
export function metricsText({ counts, refused }: Health): string {
  const lines = METRICS.flatMap(({ name, type, help, values }) => [
    `# HELP ${name} ${help}`,
    `# TYPE ${name} ${type}`,
    ...counts.flatMap((each) =>
      values(each).map(([labels, value]) => `${name}{resource="${each.resource}"${labels}} ${value}`),
    ),
  ])
  const groups = 'vfio_device_plugin_refused_groups'
  return `${[
    ...lines,
    `# HELP ${groups} Groups that are selected and belong to no resource.`,
    `# TYPE ${groups} gauge`,
    `${groups} ${refused}`,
  ].join('\n')}\n`
}

/**
 * Serves `/metrics`; `/livez`, whether it is alive; and `/healthz`, whether it sees the host: a new one would not see more of a
 * host that cannot be looked at, and would know less.
 */
export class MetricsServer {
  readonly #server: Server

  constructor(health: () => Health) {
    this.#server = createServer((request, response) => {
      const tell = (status: number, type: string, text: string) => {
        response.writeHead(status, { 'content-type': type }).end(text)
      }
      const path = request.url?.replace(/\?.*/, '')
      const { trouble } = health()
      if (request.method !== 'GET' && request.method !== 'HEAD') tell(405, 'text/plain', 'GET only\n')
      else if (path === '/metrics') tell(200, 'text/plain; version=0.0.4', metricsText(health()))
      else if (path === '/livez') tell(200, 'text/plain', 'alive\n')
      else if (path === '/healthz') tell(trouble === null ? 200 : 503, 'text/plain', `${trouble ?? 'ok'}\n`)
      else tell(404, 'text/plain', 'what there is is /metrics, /livez and /healthz\n')
    })
  }

  /**
   * @param port 0 for any
   * @returns the port that it listens on
   * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` where it cannot
   */
  async listen(port: number): Promise<number> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', ({ message }) =>
        reject(new VfioError('ERR_VFIO_BAD_FILE', `port ${port} cannot be listened on: ${message}`)),
      )
      this.#server.listen(port, resolve)
    })
    return (this.#server.address() as AddressInfo).port
  }

  close(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }
}
