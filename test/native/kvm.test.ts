import assert from 'node:assert/strict'
import { OPENS, withFake } from './fake.js'

describe('the VFIO device of KVM', () => {
  it('is made on a machine that stays its owner’s', async () => {
    await withFake([], async ({ vfio, openGroup, log }) => {
      const { fstatSync, openSync } = await import('node:fs')
      const machine = openSync('/dev/vfio/machine', 'r+')
      const kvm = vfio.KvmVfio.create(machine)
      const { group } = openGroup()
      kvm.add(group)
      kvm.remove(group)
      assert.equal(kvm.closed, false)
      await kvm.close()
      fstatSync(machine)
      assert.deepEqual(
        log().filter((line) => /^(create|attr|close)/.test(line)),
        [
          'create 4 on /dev/vfio/machine',
          'attr 1 1 /dev/vfio/1 ok',
          'attr 1 2 /dev/vfio/1 ok',
          'close kvm-vfio',
        ],
      )
      assert.match(
        await import('node:util').then(({ inspect }) => inspect(kvm)),
        /^\[the VFIO device of KVM, closed\]$/,
      )
    })
  })

  it('forgets what closes, before it closes', async () => {
    await withFake([OPENS], async ({ vfio, openGroup, log }) => {
      const { openSync } = await import('node:fs')
      const kvm = vfio.KvmVfio.create(openSync('/dev/vfio/machine', 'r+'))
      const { container, group } = openGroup()
      const second = vfio.VfioGroup.open(2)
      const third = vfio.VfioGroup.open(3)
      const device = await group.openDevice('0000:01:00.0')
      for (const file of [group, second, third, device]) kvm.add(file)
      await device.close()
      third[Symbol.dispose]()
      await container.close()
      await second.close()
      await kvm.close()
      assert.deepEqual(
        log().filter((line) => /^(attr 1 2|close)/.test(line)),
        [
          'attr 1 2 0000:01:00.0 ok',
          'close 0000:01:00.0',
          'attr 1 2 /dev/vfio/3 ok',
          'close /dev/vfio/3',
          // The group leaves its container, and KVM would hold it there.
          'attr 1 2 /dev/vfio/1 ok',
          'close /dev/vfio/vfio',
          'attr 1 2 /dev/vfio/2 ok',
          'close /dev/vfio/2',
          'close kvm-vfio',
        ],
      )
      await group.close()
    })
  })

  it('that closes first removes all that it was told of, once', async () => {
    await withFake([], async ({ vfio, openGroup, log }) => {
      const { openSync } = await import('node:fs')
      const kvm = vfio.KvmVfio.create(openSync('/dev/vfio/machine', 'r+'))
      const { group } = openGroup()
      kvm.add(group)
      kvm[Symbol.dispose]()
      await group.close()
      assert.deepEqual(
        log().filter((line) => /^(attr|close)/.test(line)),
        ['attr 1 1 /dev/vfio/1 ok', 'attr 1 2 /dev/vfio/1 ok', 'close kvm-vfio', 'close /dev/vfio/1'],
      )
    })
  })

  it('says what the kernel refused, and remembers nothing of it', async () => {
    await withFake(
      [
        { call: 'kvmAttribute', returns: -17 },
        { call: 'kvmAttribute', returns: -2 },
      ],
      async ({ vfio, openGroup, log, failure }) => {
        const { openSync } = await import('node:fs')
        const kvm = vfio.KvmVfio.create(openSync('/dev/vfio/machine', 'r+'))
        const { group } = openGroup()
        const added = await failure(() => kvm.add(group))
        assert.match(
          added.message,
          /^KVM_SET_DEVICE_ATTR on the VFIO device of KVM failed with EEXIST: the machine was told/,
        )
        assert.match((await failure(() => kvm.remove(group))).message, /ENOENT: the machine was not told/)
        await group.close()
        assert.equal(log().filter((line) => line.startsWith('attr')).length, 2)
        const none = openSync('/dev/null', 'r+')
        const refused = await failure(() => vfio.KvmVfio.create(none))
        assert.match(
          refused.message,
          new RegExp(`^KVM_CREATE_DEVICE on descriptor ${none} failed with ENOTTY: .*KVM_CREATE_VM`),
        )
      },
    )
  })

  it('refuses what is closed and what it cannot be told of', async () => {
    await withFake([OPENS], async ({ vfio, openGroup, failure, log }) => {
      const { openSync } = await import('node:fs')
      const kvm = vfio.KvmVfio.create(openSync('/dev/vfio/machine', 'r+'))
      const { container, group } = openGroup()
      for (const wrong of [undefined, null, 1, 'group', {}, container, kvm]) {
        for (const call of [kvm.add, kvm.remove]) {
          const error = await failure(() => call.call(kvm, wrong as never))
          assert.equal(error.code, 'ERR_VFIO_BAD_ARGUMENT')
        }
      }
      for (const wrong of [undefined, null, -1, 1.5, Number.NaN, 2 ** 31, 2 ** 53, '3', 3n, { fd: 3 }]) {
        const error = await failure(() => vfio.KvmVfio.create(wrong as never))
        assert.equal(error.code, 'ERR_VFIO_BAD_ARGUMENT', String(wrong))
      }
      await group.close()
      assert.equal((await failure(() => kvm.add(group))).code, 'ERR_VFIO_CLOSED')
      await kvm.close()
      const open = vfio.VfioGroup.open(2)
      for (const call of [() => kvm.add(open), () => kvm.remove(open)]) {
        assert.equal((await failure(call)).code, 'ERR_VFIO_CLOSED')
      }
      assert(!log().some((line) => line.startsWith('attr')))
    })
  })
})
