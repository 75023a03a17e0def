import assert from 'node:assert/strict'
import { listenDescriptors, VfioError } from 'vfio'
import { runSource, withFake } from './fake.js'

describe('an open descriptor', () => {
  it('is lent by what was opened, not inherited, and gone once that is closed', () =>
    withFake(
      [],
      async ({ vfio, failure, openGroup }) => {
        const { readFileSync } = await import('node:fs')
        const iommufd = vfio.Iommufd.open()
        const address = '0000:01:00.0'
        const device = await vfio.VfioDevice.openCdev(address, { iommufd, path: '/dev/vfio/devices/vfio7' })
        const { container, group } = openGroup()
        for (const object of [device, iommufd, group, container]) {
          const info = readFileSync(`/proc/self/fdinfo/${object.descriptor()}`, 'utf8')
          // O_CLOEXEC
          assert.match(info, /^flags:\s*0?2\d{6}$/m)
          assert.equal(object.descriptor(), object.descriptor())
        }
        for (const object of [device, iommufd, group, container]) {
          await object.close()
          assert.equal((await failure(() => object.descriptor())).code, 'ERR_VFIO_CLOSED')
        }
      },
      { machine: { linux: '6.12' } },
    ).then(() => {}))

  it('makes a device of its own node, which is bound, attached and used; it stays the caller’s', () =>
    withFake(
      [],
      async ({ vfio, state, log }) => {
        const { fstatSync, openSync } = await import('node:fs')
        const fd = openSync('/dev/vfio/devices/vfio0', 'r+')
        const iommufd = vfio.Iommufd.open()
        const device = await vfio.VfioDevice.fromDescriptor(fd, { address: '01:00.0', iommufd })
        assert.deepEqual([device.address, device.devid], ['0000:01:00.0', 1])
        assert.notEqual(device.descriptor(), fd)
        await device.attach(iommufd.allocateIoas())
        device.info()
        assert.equal(state().model.devices[0]?.open, 1)
        await device.close()
        fstatSync(fd)
        // It is open as long as somebody has it.
        assert.equal(state().model.devices[0]?.open, 1)
        assert.equal(log().filter((line) => line.startsWith('duplicate')).length, 1)
        await iommufd.close()
      },
      { machine: { linux: '6.12' } },
    ).then(() => {}))

  it('makes a device that somebody else has bound, by its number there', () =>
    withFake(
      [],
      async ({ vfio, failure }) => {
        const iommufd = vfio.Iommufd.open()
        const address = '0000:01:00.0'
        const first = await vfio.VfioDevice.openCdev(address, { iommufd, path: '/dev/vfio/devices/vfio0' })
        const devid = first.devid ?? 0
        const again = vfio.Iommufd.fromDescriptor(iommufd.descriptor())
        const fd = first.descriptor()
        const error = await failure(vfio.VfioDevice.fromDescriptor(fd, { address, iommufd: again }))
        assert.equal(error.code, 'ERR_VFIO_BAD_ARGUMENT')
        assert.match(error.message, /is bound to an iommufd already: .*options\.devid/)
        const second = await vfio.VfioDevice.fromDescriptor(fd, { address, iommufd: again, devid })
        await second.attach(again.allocateIoas())
        await first.close()
        second.info()
        await second.close()
        for (const one of [again, iommufd]) await one.close()
      },
      { machine: { linux: '6.12' } },
    ).then(() => {}))

  it('makes a device that a group gave, the group and the container', () =>
    withFake(
      [],
      async ({ vfio, openGroup, failure }) => {
        const address = '0000:01:00.0'
        const { container, group } = openGroup()
        const device = await group.openDevice(address)
        const { fromDescriptor } = vfio.VfioDevice
        const nameless = await failure(fromDescriptor(device.descriptor()))
        assert.match(nameless.message, /does not say which device descriptor \d+ is: give options\.address/)
        const iommufd = vfio.Iommufd.open()
        const bound = await failure(fromDescriptor(device.descriptor(), { address, iommufd }))
        assert.match(bound.message, /was opened by its group: it takes no iommufd/)
        const again = await fromDescriptor(device.descriptor(), { address })
        assert.deepEqual([again.address, again.devid], [address, null])
        again.info()
        const [sameGroup, sameContainer] = [
          vfio.VfioGroup.fromDescriptor(group.descriptor()),
          vfio.VfioContainer.fromDescriptor(container.descriptor()),
        ]
        assert.deepEqual([sameGroup.status().containerSet, sameGroup.container], [true, null])
        assert.equal(sameContainer.checkExtension('type1v2'), true)
        // Closing a second hand takes nothing from the first.
        for (const one of [again, sameGroup, sameContainer]) await one.close()
        assert.equal(group.status().containerSet, true)
        device.info()
        await container.close()
      },
      { machine: { linux: '6.12' } },
    ).then(() => {}))

  it('of another kind is refused in a sentence', () =>
    withFake(
      [],
      async ({ vfio, openGroup, failure }) => {
        const { openSync, closeSync } = await import('node:fs')
        const { container, group } = openGroup()
        const iommufd = vfio.Iommufd.open()
        const node = openSync('/dev/vfio/devices/vfio4', 'r+')
        const files = {
          container: container.descriptor(),
          group: group.descriptor(),
          iommufd: iommufd.descriptor(),
          device: node,
          'null device': openSync('/dev/null', 'r+'),
          'regular file': openSync('/proc/version', 'r'),
          'standard input': 0,
        }
        const address = '0000:01:00.0'
        const ways: Record<string, (fd: number) => unknown> = {
          container: (fd) => vfio.VfioContainer.fromDescriptor(fd),
          group: (fd) => vfio.VfioGroup.fromDescriptor(fd),
          iommufd: (fd) => vfio.Iommufd.fromDescriptor(fd),
          device: (fd) => vfio.VfioDevice.fromDescriptor(fd, { address, iommufd }),
        }
        for (const [way, make] of Object.entries(ways))
          for (const [name, fd] of Object.entries(files)) {
            if (way === name) continue
            const error = await failure(async () => await make(fd))
            assert.equal(error.code, 'ERR_VFIO_BAD_ARGUMENT', `${way} of ${name}`)
            assert.match(error.message, /^descriptor \d+ is .+: give (an open|what) [^\n]*$/)
          }
        closeSync(node)
        for (const [, make] of Object.entries(ways)) {
          const closed = await failure(async () => await make(node))
          assert.equal(closed.code, 'EBADF')
          assert.match(closed.message, /no file of this process is open by that number/)
          assert.equal((await failure(async () => await make(-1))).code, 'ERR_VFIO_BAD_ARGUMENT')
        }
        const other = openSync('/dev/vfio/devices/vfio4', 'r+')
        const without = await failure(vfio.VfioDevice.fromDescriptor(other, { address }))
        assert.match(without.message, /give the Iommufd that it is to be bound to \(options\.iommufd\)/)
        const unbound = await failure(vfio.VfioDevice.fromDescriptor(other, { address, iommufd, devid: 4 }))
        assert.match(unbound.message, /is bound to no iommufd yet/)
      },
      { machine: { linux: '6.12' } },
    ).then(() => {}))
})

describe('the descriptors that a program was given', () => {
  const given = (environment: Record<string, string>) => {
    const own: Record<string, string | undefined> = {
      LISTEN_PID: `${process.pid}`,
      OTHER: 'stays',
      ...environment,
    }
    try {
      return { found: listenDescriptors(own), left: own }
    } catch (error) {
      assert.ok(error instanceof VfioError && error.code === 'ERR_VFIO_BAD_ARGUMENT', String(error))
      return { error: error.message, left: own }
    }
  }

  it('have the names of their variables, which are taken away', () => {
    const { found, left } = given({
      LISTEN_FDS: '4',
      LISTEN_FDNAMES: 'iommufd:vfio-0000:59:00.0:vfio-10000:e1:00.1:other',
    })
    assert.deepEqual(found, [
      { name: 'iommufd', fd: 3 },
      { name: 'vfio-0000:59:00.0', fd: 4 },
      { name: 'vfio-10000:e1:00.1', fd: 5 },
      { name: 'other', fd: 6 },
    ])
    assert.deepEqual(left, { OTHER: 'stays' })
    assert.deepEqual(given({ LISTEN_FDS: '2' }).found, [
      { name: 'unknown', fd: 3 },
      { name: 'unknown', fd: 4 },
    ])
    assert.deepEqual(given({ LISTEN_FDS: '2', LISTEN_FDNAMES: ':' }).found, [
      { name: '', fd: 3 },
      { name: '', fd: 4 },
    ])
  })

  it('are none where they are for another process, whose variables stay', () => {
    const { found, left } = given({ LISTEN_PID: '1', LISTEN_FDS: '1', LISTEN_FDNAMES: 'iommufd' })
    assert.deepEqual(found, [])
    assert.equal(left.LISTEN_FDS, '1')
    assert.deepEqual(listenDescriptors({}), [])
  })

  it('are refused where the variables contradict each other', () => {
    assert.match(given({ LISTEN_FDS: 'many' }).error ?? '', /LISTEN_FDS is no number/)
    assert.match(given({}).error ?? '', /LISTEN_FDS is no number/)
    assert.match(given({ LISTEN_FDS: '2', LISTEN_FDNAMES: 'a' }).error ?? '', /1 names for 2 descriptors/)
  })

  /** What `vfio run` does, by a shell of its own: opens the files, says what they are, and becomes the program. */
  const launch = (source: string, files: string, environment: Record<string, string>) =>
    runSource(source, [], {
      machine: { linux: '6.12' },
      environment,
      command: (whole) => [
        'bash',
        '-c',
        `exec ${files}; LISTEN_PID=$$ exec "$0" --input-type=module -e "$1"`,
        process.execPath,
        whole,
      ],
    })

  it('are opened into one address space, and left to nobody else', async () => {
    const { code, stderr } = await launch(
      `
      const opened = await vfio.openGivenDevices()
      assert.equal(opened.backend, 'iommufd')
      assert.deepEqual(opened.devices.map(({ address }) => address), ['0000:01:00.0', '0000:02:00.0'])
      assert.equal(process.env.LISTEN_FDS, undefined)
      for (const fd of [3, 4, 5]) assert.throws(() => fs.fstatSync(fd), { code: 'EBADF' })
      for (const device of opened.devices) device.info()
      await opened.dma.map(vfio.DmaBuffer.allocate(4096))
      await opened.close()
      `,
      // By way of other numbers: what a shell duplicates is inherited.
      '11<>/dev/iommu 12<>/dev/vfio/devices/vfio0 13<>/dev/vfio/devices/vfio2 3<&11 4<&12 5<&13 11<&- 12<&- 13<&-',
      { LISTEN_FDS: '3', LISTEN_FDNAMES: 'iommufd:vfio-0000:01:00.0:vfio-0000:02:00.0' },
    )
    assert.equal(code, 0, stderr)
  })

  it('are missed in a sentence', async () => {
    const { code, stderr } = await runSource(
      `
      const none = await failure(vfio.openGivenDevices())
      assert.equal(none.code, 'ERR_VFIO_NO_DEVICE')
      assert.match(none.message, /start it with "vfio run ADDRESS -- COMMAND"/)
      process.env.LISTEN_PID = '1'
      assert.match((await failure(vfio.openGivenDevices())).message, /were given to process 1, and this is \\d+/)
      process.env.VFIO_ADDRESSES = 'ffff:ff:1f.7'
      const missing = await failure(vfio.openGivenDevices())
      assert.match(missing.message, /ffff:ff:1f\\.7/)
      `,
      [],
    )
    assert.equal(code, 0, stderr)
  })
})
