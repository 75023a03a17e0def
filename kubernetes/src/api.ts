import {
  credentials,
  type GrpcObject,
  loadPackageDefinition,
  type ServiceClientConstructor,
  type ServiceError,
} from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { packaged } from './package.js'

/** The version of the kubelet's API that is spoken here. */
export const API_VERSION = 'v1beta1'
/** The kubelet's own socket, in its directory of device plugins. */
export const KUBELET_SOCKET = 'kubelet.sock'

/** What a device is to the kubelet. */
export interface Device {
  readonly ID: string
  readonly health: 'Healthy' | 'Unhealthy'
  readonly topology?: { readonly nodes: readonly { readonly ID: number }[] }
}

export interface PluginOptions {
  readonly pre_start_required: boolean
  readonly get_preferred_allocation_available: boolean
}

export interface RegisterRequest {
  readonly version: string
  readonly endpoint: string
  readonly resource_name: string
  readonly options: PluginOptions
}

export interface ListAndWatchResponse {
  readonly devices: readonly Device[]
}

export interface PreferredAllocationRequest {
  readonly container_requests: readonly {
    readonly available_deviceIDs: readonly string[]
    readonly must_include_deviceIDs: readonly string[]
    readonly allocation_size: number
  }[]
}

export interface PreferredAllocationResponse {
  readonly container_responses: readonly { readonly deviceIDs: readonly string[] }[]
}

export interface AllocateRequest {
  readonly container_requests: readonly { readonly devices_ids: readonly string[] }[]
}

/** What a container is given. */
export interface ContainerAllocation {
  readonly envs: Readonly<Record<string, string>>
  readonly devices: readonly {
    readonly container_path: string
    readonly host_path: string
    readonly permissions: string
  }[]
  readonly cdi_devices: readonly { readonly name: string }[]
}

export interface AllocateResponse {
  readonly container_responses: readonly ContainerAllocation[]
}

/** What the kubelet is to call. */
export const PLUGIN_OPTIONS: PluginOptions = {
  pre_start_required: false,
  get_preferred_allocation_available: true,
}

type Service = ServiceClientConstructor

let loaded: { readonly DevicePlugin: Service; readonly Registration: Service } | undefined

/** The two services, from the description that this package brings. */
export function services() {
  if (loaded === undefined) {
    const definition = loadSync(packaged('proto/device-plugin.proto'), {
      keepCase: true,
      // A NUMA node is an int64.
      longs: Number,
      defaults: true,
    })
    const { v1beta1 } = loadPackageDefinition(definition) as { v1beta1: GrpcObject }
    loaded = {
      DevicePlugin: v1beta1.DevicePlugin as Service,
      Registration: v1beta1.Registration as Service,
    }
  }
  return loaded
}

/** The kubelet refuses longer waits itself: it dials back while it answers. */
const REGISTER_MS = 10_000

/**
 * Registers a plugin with the kubelet that listens on a socket.
 * @throws ServiceError
 */
export async function register(socket: string, request: RegisterRequest): Promise<void> {
  const client = new (services().Registration)(`unix:${socket}`, credentials.createInsecure())
  try {
    await new Promise<void>((resolve, reject) => {
      client.Register?.(request, { deadline: Date.now() + REGISTER_MS }, (error: ServiceError | null) =>
        error === null ? resolve() : reject(error),
      )
    })
  } finally {
    client.close()
  }
}
