/** Short names of PCI classes, as people say them; by base class, subclass and, where it tells, programming interface. */
const NAMES: Readonly<Record<string, string>> = {
  '0000': 'Other',
  '0001': 'VGA',
  '00': 'Other',
  '0100': 'SCSI',
  '0101': 'IDE',
  '0104': 'RAID',
  '0105': 'ATA',
  '0106': 'SATA',
  '0107': 'SAS',
  '010802': 'NVMe',
  '0108': 'NVM',
  '01': 'Storage',
  '0200': 'Ethernet',
  '0207': 'InfiniBand',
  '0208': 'Fabric',
  '02': 'Network',
  '0300': 'VGA',
  '0302': '3D',
  '03': 'Display',
  '0401': 'Audio',
  '0403': 'Audio',
  '0400': 'Video',
  '04': 'Media',
  '0502': 'CXL',
  '05': 'Memory',
  '0600': 'Host',
  '0601': 'ISA',
  '0604': 'Bridge',
  '0605': 'PCMCIA',
  '0607': 'CardBus',
  '06': 'Bridge',
  '0700': 'Serial',
  '0701': 'Parallel',
  '0703': 'Modem',
  '07': 'Comm',
  '0805': 'SD',
  '0806': 'IOMMU',
  '08': 'System',
  '0900': 'Keyboard',
  '0902': 'Mouse',
  '09': 'Input',
  '0b40': 'Coproc',
  '0b': 'CPU',
  '0c00': 'FireWire',
  '0c03': 'USB',
  '0c04': 'FC',
  '0c05': 'SMBus',
  '0c06': 'InfiniBand',
  '0c0a': 'I3C',
  '0c': 'Serial',
  '0d11': 'Bluetooth',
  '0d': 'Wireless',
  '0f': 'Satellite',
  '10': 'Crypto',
  '1101': 'Counter',
  '11': 'Signal',
  '12': 'Accel',
  '13': 'Instrument',
  '40': 'Coproc',
  ff: 'Other',
}

const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0')

/** One word for a class: `VGA`, `Ethernet`, `NVMe`; for what has no such name its number, as `lspci -n` has it. @param code 24 bits */
export function classWord(code: number): string {
  const whole = hex(code, 6)
  return NAMES[whole] ?? NAMES[whole.slice(0, 4)] ?? NAMES[whole.slice(0, 2)] ?? whole.slice(0, 4)
}

const WORDS: ReadonlySet<string> = new Set(Object.values(NAMES).map((word) => word.toLowerCase()))

/** May {@link classWord} name a class so, in capitals or not? */
export const isClassWord = (word: string): boolean => WORDS.has(word.toLowerCase())

/**
 * Is a class part of the machine itself, which nobody gives to a VM: bridges, the host's memory and system devices, SMBus?
 * @param code 24 bits
 */
export function isOfMachine(code: number): boolean {
  const base = code >>> 16
  const both = code >>> 8
  if (both === 0x0502 || both === 0x0805 || both === 0x0b40) return false
  return base === 0x05 || base === 0x06 || base === 0x08 || base === 0x0b || both === 0x0c05
}
