/** Writes structures as a kernel would, the wrong ones too. Sizes are in bytes, all words are little-endian. */
export class Bytes {
  #data: number[] = []

  get length(): number {
    return this.#data.length
  }

  u8(...values: number[]): this {
    this.#data.push(...values.map((value) => value & 0xff))
    return this
  }

  u16(...values: number[]): this {
    for (const value of values) this.u8(value, value >>> 8)
    return this
  }

  u32(...values: number[]): this {
    for (const value of values) this.u8(value, value >>> 8, value >>> 16, value >>> 24)
    return this
  }

  u64(...values: bigint[]): this {
    for (const value of values) this.u32(Number(value & 0xffffffffn), Number((value >> 32n) & 0xffffffffn))
    return this
  }

  /** Fills with zeros up to `length`. */
  to(length: number): this {
    while (this.length < length) this.u8(0)
    return this
  }

  done(): Uint8Array {
    return Uint8Array.from(this.#data)
  }
}

export const bytes = () => new Bytes()

/** `struct vfio_region_info` up to its end at 32. */
export const region = (argsz: number, flags: number, first: number, size = 0x4000n, offset = 0n) =>
  bytes().u32(argsz, flags, 0, first).u64(size, offset)

/** `struct vfio_iommu_type1_info` up to its end at 24. */
export const iommu = (argsz: number, flags: number, pageSizes: bigint, first: number) =>
  bytes().u32(argsz, flags).u64(pageSizes).u32(first, 0)

/** `struct vfio_device_info` as of 6.1, up to its end at 20. */
export const device = (argsz: number, flags: number, regions: number, irqs: number, first: number) =>
  bytes().u32(argsz, flags, regions, irqs, first)

/** `struct vfio_device_feature` up to its data: the kernel leaves the flags as they came. */
export const feature = (size: number, flags: number) => bytes().u32(8 + size, flags)
