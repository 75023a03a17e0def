import assert from 'node:assert/strict'
import { bytes, device, iommu, region } from './bytes.js'
import { type FakeAnswer, OPENS, withFake } from './fake.js'

const CAPS = 1 << 3
const LIMIT = 256

/** Each is a chain that the kernel must not be followed into; `says` is what the error names. */
const HOSTILE: { title: string; says: RegExp; answers: Uint8Array[] }[] = [
  {
    title: 'begins inside the structure',
    says: /backwards/,
    answers: [region(32, CAPS, 8).to(64).done()],
  },
  {
    title: 'runs backwards',
    says: /backwards/,
    answers: [region(64, CAPS, 48).to(48).u16(3, 1).u32(32).done()],
  },
  {
    title: 'loops',
    says: /backwards/,
    answers: [region(64, CAPS, 32).u16(3, 1).u32(32).done()],
  },
  {
    title: 'overlaps itself',
    says: /backwards/,
    answers: [region(64, CAPS, 32).u16(3, 1).u32(36).done()],
  },
  {
    title: 'is not aligned',
    says: /aligned/,
    answers: [region(64, CAPS, 33).to(64).done()],
  },
  {
    title: 'begins beyond the buffer',
    says: /outside/,
    answers: [region(64, CAPS, 4096).done()],
  },
  {
    title: 'begins at the end of the address space',
    says: /outside/,
    answers: [region(64, CAPS, 0xfffffffc).done()],
  },
  {
    title: 'has a header cut by the end',
    says: /outside/,
    answers: [
      region(LIMIT, CAPS, LIMIT - 4)
        .to(LIMIT)
        .done(),
    ],
  },
  {
    title: 'goes on beyond the buffer',
    says: /outside/,
    answers: [region(64, CAPS, 32).u16(3, 1).u32(0x10000000).done()],
  },
  {
    title: 'has more areas than bytes',
    says: /announces 4294967295 areas/,
    answers: [region(64, CAPS, 32).u16(1, 1).u32(0, 0xffffffff, 0).done()],
  },
  {
    title: 'has areas that run into the next capability',
    says: /announces 2 areas/,
    answers: [region(96, CAPS, 32).u16(1, 1).u32(64, 2, 0).u64(0n, 1n).u16(3, 1).u32(0).done()],
  },
  {
    title: 'has a type cut short by the next capability',
    says: /cut short/,
    answers: [region(64, CAPS, 32).u16(2, 1).u32(40).u16(3, 1).u32(0).done()],
  },
  {
    title: 'asks for gigabytes',
    says: /impossible size/,
    answers: [region(0xffffffff, CAPS, 0).done()],
  },
  {
    title: 'wants more each time',
    says: /grew/,
    answers: [region(512, CAPS, 0).done(), region(8192, CAPS, 0).done()],
  },
]

describe('what the kernel answers', () => {
  it('is read from a region, with every capability', async () => {
    const chain = region(120, 0xf, 32, 0x4000n, 0x10000000000n)
      .u16(1, 1)
      .u32(80, 2, 0)
      .u64(0n, 0x1000n, 0x2000n, 0xffffffff00001000n)
      .u16(2, 1)
      .u32(96, 0x80008086, 1)
      .u16(3, 1)
      .u32(104)
      .u16(1, 7)
      .u32(112)
      .u16(77, 1)
      .u32(0)
    await withFake([OPENS, { call: 'regionInfo', bytes: chain.done() }], async ({ openGroup }) => {
      const opened = await openGroup().group.openDevice('1:00.0'.padStart(7, '0'))
      assert.deepEqual(opened.regionInfo('bar0'), {
        index: 0,
        read: true,
        write: true,
        mmap: true,
        flags: 15,
        size: 0x4000n,
        offset: 0x10000000000n,
        capabilities: [
          {
            name: 'sparse-mmap',
            id: 1,
            version: 1,
            areas: [
              { offset: 0n, size: 0x1000n },
              { offset: 0x2000n, size: 0xffffffff00001000n },
            ],
          },
          { name: 'type', id: 2, version: 1, type: 0x80008086, subtype: 1 },
          { name: 'msix-mappable', id: 3, version: 1 },
          { name: 'unknown', id: 1, version: 7 },
          { name: 'unknown', id: 77, version: 1 },
        ],
      })
    })
  })

  it('is asked once more when it is larger than expected', async () => {
    const large = region(1024, 0xf, 32).u16(1, 1).u32(0, 60, 0)
    for (let i = 0n; i < 60n; i++) large.u64(i * 0x1000n, 0x1000n)
    await withFake(
      [
        OPENS,
        { call: 'regionInfo', bytes: region(1024, 0xf, 0).done() },
        { call: 'regionInfo', bytes: large.done() },
        { call: 'regionInfo', bytes: region(32, 7, 0, 5n).done() },
      ],
      async ({ openGroup, log }) => {
        const opened = await openGroup().group.openDevice('0000:01:00.0')
        const [areas] = opened.regionInfo(2).capabilities
        assert(areas?.name === 'sparse-mmap')
        assert.equal(areas.areas.length, 60)
        assert.deepEqual(areas.areas[59], { offset: 59n * 0x1000n, size: 0x1000n })
        assert.equal(log().filter((line) => line.startsWith('begin 8')).length, 2)
        assert.equal(opened.regionInfo(0).size, 5n, 'the small buffer is used again')
      },
    )
  })

  it('may leave the chain out although it announces one', async () => {
    await withFake(
      [OPENS, { call: 'regionInfo', bytes: region(32, CAPS, 0).done() }],
      async ({ openGroup }) => {
        const opened = await openGroup().group.openDevice('0000:01:00.0')
        assert.deepEqual(opened.regionInfo(0).capabilities, [])
      },
    )
  })

  it('may say nothing at all', async () => {
    await withFake([OPENS], async ({ openGroup }) => {
      const { container, group } = openGroup()
      const opened = await group.openDevice('0000:01:00.0')
      assert.equal(opened.regionInfo(0).size, 0n)
      assert.equal(opened.irqInfo('msix').count, 0)
      assert.equal(opened.info().regions, 0)
      assert.deepEqual(opened.hotResetInfo().devices, [])
      assert.deepEqual(container.iommuInfo().pageSizes, [])
    })
  })

  for (const { title, says, answers } of HOSTILE) {
    it(`is refused where a chain ${title}`, async () => {
      const script = [OPENS, ...answers.map((bytes): FakeAnswer => ({ call: 'regionInfo', bytes }))]
      await withFake(
        script,
        async ({ vfio, openGroup, failure, input }) => {
          const opened = await openGroup().group.openDevice('0000:01:00.0')
          const error = await failure(() => opened.regionInfo(0))
          assert(error instanceof vfio.VfioError)
          assert.equal(error.code, 'ERR_VFIO_BAD_KERNEL_DATA')
          assert.match(error.message, new RegExp(input))
        },
        { input: says.source },
      )
    })
  }

  it('is read from a device of today and of before', async () => {
    const modern = bytes().u32(64, 0x83, 9, 5, 24, 0).u16(5, 1).u32(0, 5, 0)
    await withFake(
      [
        OPENS,
        { call: 'deviceInfo', bytes: modern.done() },
        { call: 'deviceInfo', bytes: device(20, 2, 9, 5, 0).done() },
      ],
      async ({ openGroup }) => {
        const opened = await openGroup().group.openDevice('0000:01:00.0')
        const { capabilities, ...info } = opened.info()
        const others = { platform: false, amba: false, ccw: false, ap: false, fslMc: false, cdx: false }
        assert.deepEqual(info, { reset: true, pci: true, ...others, flags: 0x83, regions: 9, irqs: 5 })
        assert.deepEqual(capabilities[0], {
          name: 'pci-atomic-completer',
          id: 5,
          version: 1,
          widths: [32, 128],
        })
        assert.deepEqual(opened.info().capabilities, [])
      },
    )
  })

  it('is read from a device of IBM Z, in each version of its capabilities', async () => {
    /** Of `struct vfio_device_info_cap_zpci_base`, from its header on. */
    const base = (version: number, next: number) => {
      const begun = bytes().u16(1, version).u32(next).u64(0x1000n, 0xffffn).u16(0x1c0, 3, 64).u8(5, 7)
      if (version >= 2) begun.u32(0x8000_0001)
      if (version >= 3) begun.u32(48)
      return [...begun.done()]
    }
    const group = (version: number, next: number) => {
      const begun = bytes().u16(2, version).u32(next).u64(0xffn, 0xfee0_0000n, 1n).u16(4000, 64, 128).u8(2)
      if (version >= 2) begun.u8(0).u16(256)
      return [...begun.to(48).done()]
    }
    const text = (id: number, next: number, ...data: number[]) => [
      ...bytes()
        .u16(id, 1)
        .u32(next)
        .u32(data.length)
        .u8(...data)
        .done(),
    ]
    const answers = [1, 2, 3, 4].map((version): FakeAnswer => {
      const first = bytes()
        .u8(...base(version, 72))
        .to(48)
      const all = bytes()
        .u32(128, 0x83, 9, 5, 24, 0)
        .u8(...first.done())
        .u8(...group(Math.min(version, 2), 120))
        .u8(...text(3, 0, 0xc1, 0xf1))
      return {
        call: 'deviceInfo',
        bytes: bytes()
          .u8(...all.done())
          .to(136)
          .done(),
      }
    })
    for (const answer of answers)
      new DataView((answer.bytes ?? new Uint8Array(4)).buffer).setUint32(0, 136, true)
    const path = bytes()
      .u32(64, 0x83, 9, 5, 24, 0)
      .u8(...text(4, 0, 1, 2, 3, 4))
    await withFake(
      // Each is asked again, since it is larger than what was asked with.
      [OPENS, ...answers.flatMap((each) => [each, each]), { call: 'deviceInfo', bytes: path.done() }],
      async ({ openGroup }) => {
        const opened = await openGroup().group.openDevice('0000:01:00.0')
        const common = {
          startDma: 0x1000n,
          endDma: 0xffffn,
          pchid: 0x1c0,
          vfn: 3,
          fmbLength: 64,
          pft: 5,
          gid: 7,
        }
        const grouped = {
          dasm: 0xffn,
          msiAddress: 0xfee0_0000n,
          refresh: true,
          mui: 4000,
          noi: 64,
          maxstbl: 128,
        }
        for (const version of [1, 2, 3, 4]) {
          const [first, second, third, ...none] = opened.info().capabilities
          assert.deepEqual(first, {
            ...{ name: 'zpci-base', id: 1, version, ...common },
            fh: version >= 2 ? 0x8000_0001 : null,
            ccdfErrorLength: version >= 3 ? 48 : null,
          })
          assert.deepEqual(second, {
            ...{ name: 'zpci-group', id: 2, version: Math.min(version, 2), ...grouped, pciVersion: 2 },
            imaxstbl: version >= 2 ? 256 : null,
          })
          assert.deepEqual(third, { name: 'zpci-util', id: 3, version: 1, string: Uint8Array.of(0xc1, 0xf1) })
          assert.equal(none.length, 0)
        }
        assert.deepEqual(opened.info().capabilities, [
          { name: 'zpci-pfip', id: 4, version: 1, path: Uint8Array.of(1, 2, 3, 4) },
        ])
      },
    )
  })

  it('is no capability of IBM Z where that is cut short', async () => {
    const of = (id: number, version: number, ...words: number[]) =>
      bytes()
        .u32(24 + 8 + 4 * words.length, 0x83, 9, 5, 24, 0)
        .u16(id, version)
        .u32(0)
        .u32(...words)
        .done()
    const wrong = [of(3, 1, 200), of(4, 1, 0xffff_fff0)]
    await withFake(
      [OPENS, ...wrong.map((data): FakeAnswer => ({ call: 'deviceInfo', bytes: data }))],
      async ({ openGroup, failure }) => {
        const opened = await openGroup().group.openDevice('0000:01:00.0')
        for (let i = 0; i < 2; i++)
          assert.equal((await failure(() => opened.info())).code, 'ERR_VFIO_BAD_KERNEL_DATA')
      },
    )
  })

  it('is read from an interrupt', async () => {
    await withFake(
      [OPENS, { call: 'irqInfo', bytes: bytes().u32(16, 9, 2, 17).done() }],
      async ({ openGroup }) => {
        const opened = await openGroup().group.openDevice('0000:01:00.0')
        assert.deepEqual(opened.irqInfo('msix'), {
          index: 2,
          eventfd: true,
          maskable: false,
          automasked: false,
          noresize: true,
          flags: 9,
          count: 17,
        })
      },
    )
  })

  it('is read from an IOMMU, with every capability', async () => {
    const info = iommu(256, 3, 0x40201000n, 24)
      .u16(1, 1)
      .u32(72, 2, 0)
      .u64(0n, 0xfedfffffn, 0xfef00000n, 0xffffffffffffffffn)
      .u16(2, 1)
      .u32(104, 0, 0)
      .u64(0x1000n, 0x10000000n)
      // 12 bytes, so that the next one is at a multiple of four only: as kernels before 6.6 do.
      .u16(3, 1)
      .u32(116, 65535)
      .u16(9, 1)
      .u32(0)
    await withFake([{ call: 'iommuInfo', bytes: info.done() }], ({ openGroup }) => {
      const { capabilities, ...found } = openGroup().container.iommuInfo()
      assert.deepEqual(found, {
        pageSizes: [0x1000n, 0x200000n, 0x40000000n],
        iovaRanges: [
          { start: 0n, end: 0xfedfffffn },
          { start: 0xfef00000n, end: 0xffffffffffffffffn },
        ],
        dmaAvailable: 65535,
        migration: { pageSizes: [0x1000n], maxDirtyBitmapSize: 0x10000000n },
      })
      assert.deepEqual(
        capabilities.map(({ name }) => name),
        ['iova-ranges', 'migration', 'dma-available', 'unknown'],
      )
    })
  })

  it('is read from an IOMMU of a kernel that says little', async () => {
    await withFake(
      [{ call: 'iommuInfo', bytes: iommu(16, 1, 0xfffffffffffff000n, 0).done() }],
      ({ openGroup }) => {
        const { pageSizes, ...found } = openGroup().container.iommuInfo()
        assert.equal(pageSizes.length, 52)
        assert.deepEqual(found, { iovaRanges: null, dmaAvailable: null, migration: null, capabilities: [] })
      },
    )
  })

  it('is read from a hot reset, by group and by id', async () => {
    const byGroup = bytes().u32(28, 0, 2, 7).u16(0).u8(0x59, 0).u32(8).u16(0xabcd).u8(0xff, 0xff)
    const byDevid = bytes().u32(28, 1, 2, 0xffffffff).u16(0).u8(1, 1).u32(3).u16(0).u8(1, 0)
    await withFake(
      [
        OPENS,
        { call: 'hotResetInfo', bytes: byGroup.done() },
        { call: 'hotResetInfo', bytes: byDevid.done() },
      ],
      async ({ openGroup }) => {
        const opened = await openGroup().group.openDevice('0000:01:00.0')
        assert.deepEqual(opened.hotResetInfo(), {
          devices: [
            { address: '0000:59:00.0', group: 7, devid: null },
            { address: 'abcd:ff:1f.7', group: 8, devid: null },
          ],
          owned: null,
        })
        assert.deepEqual(opened.hotResetInfo(), {
          devices: [
            { address: '0000:01:00.1', group: null, devid: -1 },
            { address: '0000:01:00.0', group: null, devid: 3 },
          ],
          owned: false,
        })
      },
    )
  })

  it('is asked once more after ENOSPC', async () => {
    const all = bytes().u32(812, 0, 100)
    for (let i = 0; i < 100; i++) all.u32(i).u16(0).u8(1, i)
    await withFake(
      [
        OPENS,
        { call: 'hotResetInfo', returns: -28, bytes: bytes().u32(256, 0, 100).done() },
        { call: 'hotResetInfo', bytes: all.done() },
      ],
      async ({ openGroup }) => {
        const opened = await openGroup().group.openDevice('0000:01:00.0')
        const { devices } = opened.hotResetInfo()
        assert.equal(devices.length, 100)
        assert.deepEqual(devices[99], { address: '0000:01:0c.3', group: 99, devid: null })
      },
    )
  })

  it('is not believed where ENOSPC or a count makes no sense', async () => {
    const counts = [
      { returns: -28, count: 3, code: 'ENOSPC' },
      { returns: -28, count: 0xffffffff, code: 'ERR_VFIO_BAD_KERNEL_DATA' },
      { returns: 0, count: 31, code: 'ERR_VFIO_BAD_KERNEL_DATA' },
      { returns: 0, count: 0xffffffff, code: 'ERR_VFIO_BAD_KERNEL_DATA' },
    ]
    const script = counts.map(
      ({ returns, count }): FakeAnswer => ({
        call: 'hotResetInfo',
        returns,
        bytes: bytes().u32(256, 0, count).done(),
      }),
    )
    await withFake(
      [OPENS, ...script],
      async ({ openGroup, failure, input }) => {
        const opened = await openGroup().group.openDevice('0000:01:00.0')
        for (const code of input) assert.equal((await failure(() => opened.hotResetInfo())).code, code)
      },
      { input: counts.map(({ code }) => code) },
    )
  })

  it('is a number where a number is asked for', async () => {
    await withFake(
      [
        { call: 'checkExtension', returns: 1 },
        { call: 'checkExtension', returns: 0 },
        { call: 'groupStatus', bytes: bytes().u32(8, 3).done() },
        { call: 'groupStatus', bytes: bytes().u32(8, 0).done() },
      ],
      ({ openGroup }) => {
        const { container, group } = openGroup()
        assert.equal(container.apiVersion(), 0)
        assert.equal(container.checkExtension('type1v2'), true)
        assert.equal(container.checkExtension(4), false)
        assert.deepEqual(group.status(), { viable: true, containerSet: true, flags: 3 })
        assert.deepEqual(group.status(), { viable: false, containerSet: false, flags: 0 })
      },
    )
  })
})
