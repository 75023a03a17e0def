import { VfioError } from '../errors.js'

/** As Kubernetes has it of both parts (`IsDNS1123Subdomain`, `IsQualifiedName`). */
const DOMAIN = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/
const NAME = /^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$/
/** The quota of a resource is named `requests.` and its name, and that has to fit too. */
const LONGEST_DOMAIN = 253 - 'requests.'.length
const LONGEST_NAME = 63

/**
 * Refuses what Kubernetes takes for no extended resource (`IsExtendedResourceName`): `DOMAIN/NAME`, in a domain that is
 * not its own.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT`
 */
export function checkResourceName(text: string): void {
  const [domain = '', name = '', ...rest] = text.split('/')
  const wrong = (why: string) =>
    new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      `${JSON.stringify(text.slice(0, 80))} is no name of a resource: ${why}; expected one like example.com/gpu`,
    )
  if (!text.includes('/')) throw wrong('it has no domain')
  if (rest.length > 0) throw wrong('it has more than one slash')
  if (domain.length > LONGEST_DOMAIN || !DOMAIN.test(domain))
    throw wrong('its domain is none, of small letters, digits, hyphens and dots')
  if (name.length > LONGEST_NAME || !NAME.test(name))
    throw wrong(
      `behind the slash belong up to ${LONGEST_NAME} letters, digits, hyphens, underscores and dots, the first and last a letter or digit`,
    )
  // `IsPrefixedNativeResource`: also where the domain only ends so.
  if (domain.endsWith('kubernetes.io')) throw wrong('kubernetes.io is the domain of Kubernetes itself')
  if (domain.startsWith('requests.')) throw wrong('"requests." in front is for quotas')
}
