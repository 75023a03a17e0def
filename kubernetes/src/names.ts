import { cdiFile, checkCdiKind, VfioError } from 'vfio'

/** Who opens devices: KubeVirt's launcher, Kata's runtime, or a program in an ordinary container. */
export type Consumer = 'kubevirt' | 'kata' | 'plain'

/** A label of DNS, and names of such labels (RFC 1123), as the kubelet checks the part before the slash. */
const DOMAIN = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/
const NAME = /^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$/
/** Quotas put it in front of a name, and the whole has to stay a name. */
const QUOTA = 'requests.'
const DOMAIN_LIMIT = 253
const NAME_LIMIT = 63

/** Why the kubelet, or who else reads the name of a resource, would refuse it; `null` where all take it. */
export function whyRefused(resource: string, consumer: Consumer): string | null {
  const slash = resource.indexOf('/')
  const [domain, name] = [resource.slice(0, slash), resource.slice(slash + 1)]
  if (/kubernetes\.io\/?$/.test(domain))
    return 'the kubelet keeps names of kubernetes.io for itself: take a domain of your own'
  if (resource.startsWith(QUOTA))
    return `quotas have names that begin with "${QUOTA}", and the kubelet refuses others: take another domain`
  if (!DOMAIN.test(domain))
    return `"${domain}" is no domain, which has small letters, digits, hyphens and dots, and the kubelet would refuse it`
  if (QUOTA.length + domain.length > DOMAIN_LIMIT)
    return `its domain has more than ${DOMAIN_LIMIT - QUOTA.length} characters, and the kubelet would refuse it`
  if (!NAME.test(name))
    return `"${name}" has other characters than letters, digits, "-", "_" and ".", or one of these at an end, and the kubelet would refuse it`
  if (name.length > NAME_LIMIT)
    return `what stands behind the slash has more than ${NAME_LIMIT} characters, and the kubelet would refuse it`
  return consumer === 'kata' ? whyNoKind(resource) : null
}

/** Kata asks for devices of a CDI kind that is the name of the resource. */
function whyNoKind(resource: string): string | null {
  try {
    checkCdiKind(resource, 'kata')
    // The plugin's own file is no longer.
    cdiFile(resource)
    return null
  } catch (error) {
    if (error instanceof VfioError) return `for Kata it is a kind of CDI too, and ${error.message}`
    throw error
  }
}

/** The environment variable by which a container learns the addresses that it was given (KubeVirt's `ResourceNameToEnvVar`). */
export const variableOf = (resource: string) =>
  `PCI_RESOURCE_${resource.toUpperCase().replaceAll('/', '_').replaceAll('.', '_')}`
