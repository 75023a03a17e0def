import type { Snapshot } from 'vfio'
import type { AllocateRequest, AllocateResponse, ContainerAllocation } from './api.js'
import type { Config, Resource } from './config.js'
import { Refusal } from './endpoint.js'
import { variableOf } from './names.js'
import { type Knowledge, type OfferedDevice, offer } from './offer.js'

/**
 * What containers are given, judged by a look that was made for it.
 * @throws Refusal for the first device that cannot be given
 */
export function allocate(
  seen: Snapshot,
  config: Config,
  resource: Resource,
  request: AllocateRequest,
  knowledge: Knowledge,
): AllocateResponse {
  const offered = offer(seen, config, knowledge)
  const devices = offered.resources.find(({ name }) => name === resource.name)?.devices ?? []
  const given = new Set<string>()
  return {
    container_responses: request.container_requests.map(({ devices_ids }) => {
      const wanted = devices_ids.map((id) => {
        if (given.has(id)) throw new Refusal(`${id} of ${resource.name} is asked for twice`)
        given.add(id)
        const device = devices.find((each) => each.id === id)
        if (device !== undefined) return givable(device, resource)
        const refused = offered.refused.find(({ functions }) => functions.includes(id))
        throw new Refusal(
          refused?.reason ?? `${id} is no device of ${resource.name} on this host, or is none any more`,
        )
      })
      return handedOver(resource, wanted)
    }),
  }
}

function givable(device: OfferedDevice, { name }: Resource): OfferedDevice {
  const { id, reason, inUse, holderSeen } = device
  if (reason !== null) throw new Refusal(`${id} of ${name} cannot be given to a container: ${reason}`)
  // Of one that nobody was seen to have open the kernel knows: it opens none twice.
  if (holderSeen) throw new Refusal(`${id} of ${name} is in use: ${inUse}`)
  return device
}

function handedOver({ name, consumer }: Resource, devices: readonly OfferedDevice[]): ContainerAllocation {
  const envs = { [variableOf(name)]: devices.map(({ id }) => id).join(',') }
  if (consumer === 'kata')
    return { envs, devices: [], cdi_devices: devices.map(({ id }) => ({ name: `${name}=${id}` })) }
  const nodes = [...new Set(devices.flatMap((device) => device.nodes))]
  return {
    envs,
    devices: nodes.map((path) => ({ container_path: path, host_path: path, permissions: 'rw' })),
    cdi_devices: [],
  }
}
