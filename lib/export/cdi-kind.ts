import { VfioError } from '../errors.js'
import { printable } from '../text.js'

/** What takes devices by CDI: a container that opens them itself, or Kata's VM around it. */
export type CdiConsumer = 'plain' | 'kata'

export const CDI_CONSUMERS: readonly CdiConsumer[] = ['plain', 'kata']

/** What devices are called where nobody says otherwise. */
export const CDI_KIND = 'vfio/pci'

/** Of a DNS name (RFC 1035), and of one label of it. */
const LONGEST_VENDOR = 253
const LONGEST_LABEL = 63
/** The kubelet puts `requests.` in front of the name of a resource, and takes that for a DNS name too. */
const QUOTA = 'requests.'

/**
 * The name of the file of a kind. No vendor has an underscore in it: two kinds never share a name.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` where it is no kind, or too long for a file
 */
export function cdiFile(kind: string): string {
  checkCdiKind(kind, 'plain')
  const name = `vfio-${kind.replace('/', '_')}.json`
  if (name.length <= LONGEST_FILE) return name
  throw bad(
    kind,
    `it makes the name of a file, which would have ${name.length} characters, ${LONGEST_FILE} at most`,
  )
}

/** What a directory entry may have, without what a draft beside it has more. */
const LONGEST_FILE = 255 - 18

/**
 * Checks what devices are called: by the grammar of CDI, and by what is stricter in those who read it. Versions before 0.6
 * fall over names of one letter, and know no dot in a class.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT`
 */
export function checkCdiKind(kind: string, consumer: CdiConsumer): void {
  if (typeof kind !== 'string') throw bad(String(kind), 'it is no text')
  const parts = kind.split('/')
  const [vendor = '', name = ''] = parts
  if (parts.length !== 2) throw bad(kind, 'it is a vendor and a class with one "/" between them')
  checkVendor(kind, vendor)
  checkClass(kind, name)
  if (consumer === 'kata') checkResource(kind, vendor)
}

function checkVendor(kind: string, vendor: string): void {
  if (vendor.length < 2) throw bad(kind, tooShort('vendor', vendor))
  if (!/^[A-Za-z]/.test(vendor)) throw bad(kind, 'its vendor has to begin with a letter')
  const wrong = vendor.split('.').find((label) => !/^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$/.test(label))
  if (wrong !== undefined)
    throw bad(
      kind,
      `its vendor is a DNS name, of letters, digits and "-" between dots, and "${printable(wrong)}" is no part of one`,
    )
  if (vendor.length > LONGEST_VENDOR || vendor.split('.').some((label) => label.length > LONGEST_LABEL))
    throw bad(
      kind,
      `its vendor is a DNS name, of ${LONGEST_VENDOR} characters at most, and ${LONGEST_LABEL} between dots`,
    )
}

function checkClass(kind: string, name: string): void {
  if (name.length < 2) throw bad(kind, tooShort('class', name))
  if (name.includes('.')) throw bad(kind, 'a dot in its class is read from CDI 0.6 on only')
  if (!/^[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])$/.test(name))
    throw bad(
      kind,
      'its class has letters, digits, "_" and "-", a letter first, and a letter or a digit last',
    )
  if (name.length > LONGEST_LABEL) throw bad(kind, `its class has ${LONGEST_LABEL} characters at most`)
}

/** Kata asks the kubelet for resources, and CDI for devices of that kind. */
function checkResource(kind: string, vendor: string): void {
  const because = 'Kata takes the name of a Kubernetes resource for the kind'
  if (vendor !== vendor.toLowerCase()) throw bad(kind, `${because}, whose vendor has no capitals`)
  if (vendor.includes('kubernetes.io')) throw bad(kind, `${because}, and "kubernetes.io" is Kubernetes' own`)
  if (vendor.startsWith(QUOTA)) throw bad(kind, `${because}, and none begins with "${QUOTA}"`)
  if (vendor.length > LONGEST_VENDOR - QUOTA.length)
    throw bad(kind, `${because}, whose vendor has ${LONGEST_VENDOR - QUOTA.length} characters at most`)
}

const tooShort = (what: string, text: string) =>
  text === '' ? `its ${what} is missing` : `podman 4 falls over a ${what} of one letter`

const bad = (kind: string, why: string) =>
  new VfioError(
    'ERR_VFIO_BAD_ARGUMENT',
    `"${printable(kind)}" cannot be the kind of a CDI device: ${why}; take one like example.com/gpu`,
  )
