/** One entry of a capability list, `offset` in bytes from the start of config space. */
export interface CapabilityEntry {
  readonly id: number
  /** The PCI specification's short name, `null` for an id this version does not know. */
  readonly name: string | null
  readonly offset: number
}

/** PCI Express capability (PCIe 6.0, 7.5.3). */
export interface PcieCapability {
  /** Device/port type of the PCIe capability, for instance `endpoint` or `root-port`. */
  readonly type: string
  /** Function-level reset is announced (DEVCAP.FLR). */
  readonly flr: boolean
  /** The port has a slot (PCIe capabilities register). */
  readonly slot: boolean
  /** The slot is hot-plug capable (SLTCAP.HPC); `false` without a slot. */
  readonly hotplug: boolean
  /** Highest link speed code (LNKCAP): 1 is 2.5 GT/s, 2 is 5, 3 is 8, 4 is 16, 5 is 32, 6 is 64. */
  readonly maxLinkSpeed: number
  /** Lanes that the link can have (LNKCAP); 0 where there is no link, as within a chip. */
  readonly maxLinkWidth: number
  /** Speed code and lanes that the link has now (LNKSTA); 0 where there is no link or it is down. */
  readonly linkSpeed: number
  readonly linkWidth: number
  /** The port reports data-link-layer activity (LNKCAP.DLLLARC), and whether the link is up (LNKSTA.DLLLA). */
  readonly linkActive: boolean | null
}

/** What the capability lists of a function say: standard (first 256 bytes) and extended (up to 4096). */
export interface Capabilities {
  /** Bytes of config space that the caller's privilege let through: 64, 256 or 4096 on a live host. */
  readonly readable: number
  /** False where the list goes on in bytes that could not be read: without CAP_SYS_ADMIN sysfs shows 64. */
  readonly complete: boolean
  readonly standard: readonly CapabilityEntry[]
  readonly extended: readonly CapabilityEntry[]
  readonly pcie: PcieCapability | null
  /** Advanced Features: reset is possible only where both TP and FLR are set. */
  readonly af: { readonly transactionsPending: boolean; readonly flr: boolean } | null
  /** Power management: with `noSoftReset` the way D3hot → D0 resets nothing. */
  readonly pm: { readonly noSoftReset: boolean; readonly state: string } | null
  readonly msi: {
    readonly vectors: number
    readonly enabled: boolean
    readonly address64: boolean
    readonly maskable: boolean
  } | null
  readonly msix: {
    readonly vectors: number
    readonly enabled: boolean
    readonly tableBar: number
    readonly tableOffset: number
    readonly pbaBar: number
    readonly pbaOffset: number
  } | null
  /** Access Control Services: what the port or function can do, and what is switched on. */
  readonly acs: { readonly supported: readonly string[]; readonly enabled: readonly string[] } | null
  readonly sriov: {
    readonly totalVfs: number
    readonly numVfs: number
    readonly vfOffset: number
    readonly vfStride: number
    readonly vfDevice: number
  } | null
  /** A CXL port whose secondary bus reset is masked (CXL 3.1, 8.1.5): SBR does nothing there. */
  readonly cxlResetMasked: boolean
  /** The link of a CXL port was trained to carry CXL.cache or CXL.mem (CXL 3.1, 8.1.8.3); `null` for anything else. */
  readonly cxlLink: boolean | null
}

/** The parts of the header that topology needs. */
export interface ConfigHeader {
  readonly vendor: number
  readonly device: number
  readonly revision: number
  readonly class: number
  readonly headerType: 'normal' | 'bridge' | 'cardbus' | 'unknown'
  readonly multifunction: boolean
  /** A bridge's secondary bus number, `null` for anything else. */
  readonly secondaryBus: number | null
  readonly subsystemVendor: number
  readonly subsystemDevice: number
}

const STANDARD_NAMES: Record<number, string> = {
  1: 'PM',
  2: 'AGP',
  3: 'VPD',
  4: 'Slot ID',
  5: 'MSI',
  6: 'CompactPCI HotSwap',
  7: 'PCI-X',
  8: 'HyperTransport',
  9: 'Vendor specific',
  10: 'Debug port',
  11: 'CompactPCI control',
  12: 'Hot-plug',
  13: 'Bridge subsystem',
  14: 'AGP 8x',
  15: 'Secure device',
  16: 'PCIe',
  17: 'MSI-X',
  18: 'SATA',
  19: 'AF',
  20: 'EA',
  21: 'FPB',
}

const EXTENDED_NAMES: Record<number, string> = {
  1: 'AER',
  2: 'VC',
  3: 'Serial number',
  4: 'Power budgeting',
  5: 'RC link declaration',
  6: 'RC internal link control',
  7: 'RC event collector',
  8: 'MFVC',
  9: 'VC',
  10: 'RCRB',
  11: 'Vendor specific',
  12: 'Config access correlation',
  13: 'ACS',
  14: 'ARI',
  15: 'ATS',
  16: 'SR-IOV',
  17: 'MR-IOV',
  18: 'Multicast',
  19: 'PRI',
  21: 'Resizable BAR',
  22: 'DPA',
  23: 'TPH requester',
  24: 'LTR',
  25: 'Secondary PCIe',
  26: 'PMUX',
  27: 'PASID',
  28: 'LNR',
  29: 'DPC',
  30: 'L1 PM substates',
  31: 'PTM',
  32: 'PCIe over M-PHY',
  33: 'FRS queueing',
  34: 'Readiness time',
  35: 'DVSEC',
  36: 'VF resizable BAR',
  37: 'Data link feature',
  38: '16 GT/s',
  39: 'Lane margining',
  40: 'Hierarchy ID',
  41: 'NPEM',
  42: '32 GT/s',
  43: 'Alternate protocol',
  44: 'SFI',
  45: 'Shadow functions',
  46: 'DOE',
  47: 'Device 3',
  48: 'IDE',
  49: '64 GT/s',
  50: 'Flit logging',
  51: 'Flit performance',
  52: 'Flit error injection',
  53: 'Streamlined VC',
  54: 'MMIO register locator',
}

const PCIE_TYPES: Record<number, string> = {
  0: 'endpoint',
  1: 'legacy-endpoint',
  4: 'root-port',
  5: 'upstream-port',
  6: 'downstream-port',
  7: 'pcie-to-pci-bridge',
  8: 'pci-to-pcie-bridge',
  9: 'root-complex-endpoint',
  10: 'root-complex-event-collector',
}

/** ACS bits in the order of the capability register (PCIe 6.0, 7.7.11.2). */
const ACS_BITS = ['SV', 'TB', 'RR', 'CR', 'UF', 'EC', 'DT']

const ACS = 0x0d
const SRIOV = 0x10
const DVSEC = 0x23
/** Of extended capabilities with these ids so many bytes are read here, header included, and of the others the header. */
export const EXTENDED_BODIES: Readonly<Record<number, number>> = { [ACS]: 8, [SRIOV]: 0x1c, [DVSEC]: 0x10 }

const NONE: readonly CapabilityEntry[] = Object.freeze([])

const HEADER_TYPES = ['normal', 'bridge', 'cardbus'] as const

const byte = (config: Uint8Array, at: number) => config[at] ?? 0
const word = (config: Uint8Array, at: number) => byte(config, at) | (byte(config, at + 1) << 8)
const dword = (config: Uint8Array, at: number) => (word(config, at) | (word(config, at + 2) << 16)) >>> 0

/** What everybody may read, in bytes. */
const HEADER = 64

/**
 * A read that nothing answers is all ones (`PCI_ERROR_RESPONSE`). The ids of a virtual function are ones too, and the rest
 * is not. `null` where too little could be read to tell.
 */
export function doesAnswer(config: Uint8Array): boolean | null {
  const seen = config.subarray(0, HEADER)
  return seen.length < 16 ? null : seen.some((value) => value !== 0xff)
}

/** Reads the header; bytes that are missing count as zero. `null` where not even the ids are there. */
export function readHeader(config: Uint8Array): ConfigHeader | null {
  if (config.length < 16) return null
  const headerType = HEADER_TYPES[byte(config, 0x0e) & 0x7f] ?? 'unknown'
  const subsystem = headerType === 'normal' ? 0x2c : headerType === 'cardbus' ? 0x40 : bridgeSubsystem(config)
  return {
    vendor: word(config, 0x00),
    device: word(config, 0x02),
    revision: byte(config, 0x08),
    class: dword(config, 0x08) >>> 8,
    headerType,
    multifunction: (byte(config, 0x0e) & 0x80) !== 0,
    secondaryBus: headerType === 'bridge' || headerType === 'cardbus' ? byte(config, 0x19) : null,
    subsystemVendor: subsystem ? word(config, subsystem) : 0,
    subsystemDevice: subsystem ? word(config, subsystem + 2) : 0,
  }
}

/** A bridge keeps its subsystem ids in a capability, if at all. */
function bridgeSubsystem(config: Uint8Array): number {
  const entry = walkStandard(config).find((found) => found.id === 0x0d)
  return entry ? entry.offset + 4 : 0
}

function walkStandard(config: Uint8Array): readonly CapabilityEntry[] {
  if ((word(config, 0x06) & 0x10) === 0) return NONE
  const entries: CapabilityEntry[] = []
  const visited = new Uint8Array(64)
  const start = (byte(config, 0x0e) & 0x7f) === 2 ? 0x14 : 0x34
  let offset = byte(config, start) & 0xfc
  // Below 0x40 is the header; an entry met before is a loop.
  while (offset >= 0x40 && offset + 1 < config.length && !visited[offset >> 2]) {
    visited[offset >> 2] = 1
    const id = byte(config, offset)
    if (id === 0xff) break
    entries.push({ id, name: STANDARD_NAMES[id] ?? null, offset })
    offset = byte(config, offset + 1) & 0xfc
  }
  return entries
}

function walkExtended(config: Uint8Array): readonly CapabilityEntry[] {
  const entries: CapabilityEntry[] = []
  const visited = new Set<number>()
  let offset = 0x100
  while (offset >= 0x100 && offset + 3 < config.length && !visited.has(offset)) {
    visited.add(offset)
    const header = dword(config, offset)
    if (header === 0 || header === 0xffffffff) break
    const id = header & 0xffff
    // Id 0 only links on: a device hides a capability that way.
    if (id !== 0) entries.push({ id, name: EXTENDED_NAMES[id] ?? null, offset })
    offset = (header >>> 20) & 0xffc
  }
  return entries
}

const without = new Map<number, Capabilities>()

/** One answer for all that show none, as every function does whose header alone was read. */
function noCapabilities(readable: number, complete: boolean): Capabilities {
  const key = complete ? readable : -readable
  const known = without.get(key)
  if (known) return known
  const none: Capabilities = Object.freeze({
    readable,
    complete,
    standard: NONE,
    extended: NONE,
    pcie: null,
    af: null,
    pm: null,
    msi: null,
    msix: null,
    acs: null,
    sriov: null,
    cxlResetMasked: false,
    cxlLink: null,
  })
  without.set(key, none)
  return none
}

/** Walks both capability lists. Total: any bytes give a value, and a list that loops or leaves the space ends. */
export function readCapabilities(config: Uint8Array): Capabilities {
  if (doesAnswer(config) === false) return noCapabilities(config.length, false)
  const standard = walkStandard(config)
  const complete = config.length >= 256 || (config.length >= 64 && (word(config, 0x06) & 0x10) === 0)
  if (standard.length === 0) return noCapabilities(config.length, complete)
  const at = (id: number, size: number) => {
    for (const entry of standard) {
      if (entry.id === id && entry.offset + size <= config.length) return entry.offset
    }
    return 0
  }
  const pcieAt = at(0x10, 0x14)
  const extended = pcieAt && config.length > 0x100 ? walkExtended(config) : NONE
  const atExtended = (id: number) => {
    const size = EXTENDED_BODIES[id] ?? 4
    for (const entry of extended) {
      if (entry.id === id && entry.offset + size <= config.length) return entry.offset
    }
    return 0
  }
  const af = at(0x13, 6)
  const pm = at(0x01, 6)
  const msi = at(0x05, 4)
  const msix = at(0x11, 12)
  const acs = atExtended(ACS)
  const sriov = atExtended(SRIOV)
  return {
    readable: config.length,
    complete,
    standard,
    extended,
    pcie: pcieAt ? readPcie(config, pcieAt) : null,
    af: af
      ? { transactionsPending: (byte(config, af + 3) & 1) !== 0, flr: (byte(config, af + 3) & 2) !== 0 }
      : null,
    pm: pm ? { noSoftReset: (word(config, pm + 4) & 8) !== 0, state: `D${word(config, pm + 4) & 3}` } : null,
    msi: msi
      ? {
          vectors: 1 << ((word(config, msi + 2) >> 1) & 7),
          enabled: (word(config, msi + 2) & 1) !== 0,
          address64: (word(config, msi + 2) & 0x80) !== 0,
          maskable: (word(config, msi + 2) & 0x100) !== 0,
        }
      : null,
    msix: msix
      ? {
          vectors: (word(config, msix + 2) & 0x7ff) + 1,
          enabled: (word(config, msix + 2) & 0x8000) !== 0,
          tableBar: dword(config, msix + 4) & 7,
          tableOffset: (dword(config, msix + 4) & ~7) >>> 0,
          pbaBar: dword(config, msix + 8) & 7,
          pbaOffset: (dword(config, msix + 8) & ~7) >>> 0,
        }
      : null,
    acs: acs
      ? { supported: acsNames(word(config, acs + 4)), enabled: acsNames(word(config, acs + 6)) }
      : null,
    sriov: sriov
      ? {
          totalVfs: word(config, sriov + 0x0e),
          numVfs: word(config, sriov + 0x10),
          vfOffset: word(config, sriov + 0x14),
          vfStride: word(config, sriov + 0x16),
          vfDevice: word(config, sriov + 0x1a),
        }
      : null,
    cxlResetMasked: extended.some((entry) => isMaskedCxlPort(config, entry)),
    cxlLink: extended.reduce<boolean | null>((link, entry) => link ?? cxlLinkOf(config, entry), null),
  }
}

const acsNames = (bits: number) => ACS_BITS.filter((_, bit) => (bits & (1 << bit)) !== 0)

function readPcie(config: Uint8Array, at: number): PcieCapability {
  const flags = word(config, at + 2)
  const linkCapabilities = dword(config, at + 0x0c)
  const linkStatus = word(config, at + 0x12)
  const slot = (flags & 0x100) !== 0
  return {
    type: PCIE_TYPES[(flags >> 4) & 0xf] ?? 'unknown',
    flr: (dword(config, at + 4) & (1 << 28)) !== 0,
    slot,
    hotplug: slot && at + 0x18 <= config.length && (dword(config, at + 0x14) & 0x40) !== 0,
    maxLinkSpeed: linkCapabilities & 0xf,
    maxLinkWidth: (linkCapabilities >> 4) & 0x3f,
    linkSpeed: linkStatus & 0xf,
    linkWidth: (linkStatus >> 4) & 0x3f,
    linkActive: linkCapabilities & (1 << 20) ? (linkStatus & 0x2000) !== 0 : null,
  }
}

/** DVSEC 3 of vendor 1e98 is "CXL extensions for ports"; bit 0 of its control word unmasks SBR. */
function isMaskedCxlPort(config: Uint8Array, entry: CapabilityEntry): boolean {
  const at = entry.offset
  return isCxlDvsec(config, entry, 3, 0x0e) && (word(config, at + 0x0c) & 1) === 0
}

/** DVSEC 7 is "Flex Bus port"; bits 0 and 2 of its status word are CXL.cache and CXL.mem. */
function cxlLinkOf(config: Uint8Array, entry: CapabilityEntry): boolean | null {
  if (!isCxlDvsec(config, entry, 7, 0x10)) return null
  return (word(config, entry.offset + 0x0e) & 0b101) !== 0
}

function isCxlDvsec(
  config: Uint8Array,
  { id, offset }: CapabilityEntry,
  dvsec: number,
  size: number,
): boolean {
  if (id !== DVSEC || offset + size > config.length) return false
  return word(config, offset + 4) === 0x1e98 && word(config, offset + 8) === dvsec
}
