/** The status that a QEMU with {@link EXIT} ends with when the disk has been read. */
export const READ = 2 * 20 + 1
/** A device of QEMU that ends it: the value that is written to it, times two, plus one is the status. */
export const EXIT = ['-device', 'isa-debug-exit,iobase=0xf4,iosize=1']

const SECTOR = 512

/**
 * The first two sectors of a disk that a PC boots from: it reads the second by the firmware (INT 13h), sends what it has there
 * to the first serial port up to a NUL, and ends QEMU.
 */
export function bootDisk(text: string): Buffer {
  const disk = Buffer.alloc(2 * SECTOR)
  // Loaded to 0x7c00, with the number of the disk in dl.
  Buffer.from(
    [
      'fa 31c0 8ed8 8ec0 8ed0 bc007c fb', // cli; ds = es = ss = 0; sp = 0x7c00; sti
      'be407c b442 cd13 721e', // si = packet; ah = 0x42; int 0x13; jc failed
      'be007e', // si = 0x7e00
      'ac 84c0 7412', // next: lodsb; test al, al; jz done
      '88c4 bafd03 ec a820 74f8', // ah = al; wait: dx = 0x3fd; in al, dx; test al, 0x20; jz wait
      '88e0 baf803 ee ebe9', // al = ah; dx = 0x3f8; out dx, al; jmp next
      'b014 eb02', // done: al = 20; jmp end
      'b001', // failed: al = 1
      'baf400 ee f4 ebfd', // end: dx = 0xf4; out dx, al; hlt
    ]
      .join('')
      .replaceAll(' ', ''),
    'hex',
  ).copy(disk)
  // The packet: 16 bytes, 1 sector, to 0000:7e00, from block 1 on.
  Buffer.from('10000100007e00000100000000000000', 'hex').copy(disk, 0x40)
  disk.writeUInt16LE(0xaa55, SECTOR - 2)
  disk.write(`${text}\0`, SECTOR, 'latin1')
  return disk
}
