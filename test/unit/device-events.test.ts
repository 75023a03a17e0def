import assert from 'node:assert/strict'
import fc from 'fast-check'
import { eventOfUevent, eventsOfRecord } from '../../lib/sysfs/device-events.js'
import { SEED } from './support.js'

const PATH = '/devices/pci0000:00/0000:00:03.0/0000:01:00.0'

/** A message as `kobject_uevent_env()` writes it. */
const uevent = (action: string, path: string, values: Readonly<Record<string, string>>) =>
  Buffer.from(
    [
      `${action}@${path}`,
      `ACTION=${action}`,
      `DEVPATH=${path}`,
      ...Object.entries(values).map(([name, value]) => `${name}=${value}`),
      'SEQNUM=4711',
      '',
    ].join('\0'),
  )

const told = (action: string, path: string, values: Readonly<Record<string, string>>) => {
  const event = eventOfUevent(uevent(action, path, values))
  return event && [event.kind, 'group' in event ? event.group : event.address, event.what]
}

const PCI = { SUBSYSTEM: 'pci', PCI_SLOT_NAME: '0000:01:00.0' }

/** A record as `/dev/kmsg` gives it, of a device where one is named. */
const record = (text: string, device: string | null = null, priority = 4) =>
  Buffer.from(
    `${priority},1234,5678901,-;${text}\n${device === null ? '' : ` SUBSYSTEM=pci\n DEVICE=+pci:${device}\n`}`,
  )

const said = (text: string, device: string | null = null, priority?: number) =>
  eventsOfRecord(record(text, device, priority)).map(({ kind, address, what }) => [kind, address, what])

describe('a message of the kernel about a device', () => {
  it('tells of the function itself and of its driver', () => {
    for (const [action, values, kind, what] of [
      ['add', {}, 'added', /is there/],
      ['remove', {}, 'removed', /is gone/],
      ['bind', { DRIVER: 'vfio-pci' }, 'bound', /^0000:01:00\.0 is bound to vfio-pci$/],
      ['bind', {}, 'bound', /is bound to a driver$/],
      ['unbind', {}, 'unbound', /unbound/],
      ['change', { SOMETHING: 'else' }, 'changed', /changed/],
      ['change', { ERROR_EVENT: 'BEGIN_RECOVERY', DEVICE_ONLINE: '0' }, 'error', /tries to recover/],
      ['change', { ERROR_EVENT: 'SUCCESSFUL_RECOVERY', DEVICE_ONLINE: '1' }, 'recovered', /has recovered/],
      ['change', { ERROR_EVENT: 'FAILED_RECOVERY', DEVICE_ONLINE: '0' }, 'failed', /could not/],
      ['change', { ERROR_EVENT: 'OF_A_LATER_KERNEL', DEVICE_ONLINE: '0' }, 'error', /offline/],
      ['change', { DEVICE_ONLINE: '1' }, 'recovered', /online/],
    ] as const) {
      const [foundKind, address, foundWhat] = told(action, PATH, { ...values, ...PCI }) ?? []
      assert.deepEqual([foundKind, address], [kind, '0000:01:00.0'], action)
      assert.match(String(foundWhat), what)
    }
  })

  it('tells of its VFIO device, of the file of a group, and of an IOMMU', () => {
    assert.deepEqual(told('add', `${PATH}/vfio-dev/vfio3`, { SUBSYSTEM: 'vfio-dev' }), [
      'changed',
      '0000:01:00.0',
      'the VFIO device of 0000:01:00.0, vfio3, is there',
    ])
    assert.deepEqual(told('remove', '/devices/virtual/vfio/12', { SUBSYSTEM: 'vfio' }), [
      'changed',
      12,
      'the file of group 12, /dev/vfio/12, is gone',
    ])
    assert.deepEqual(told('add', '/devices/virtual/vfio/noiommu-0', { SUBSYSTEM: 'vfio' }), [
      'changed',
      0,
      'the file of group 0, /dev/vfio/noiommu-0, is there',
    ])
    assert.deepEqual(told('add', '/devices/virtual/iommu/dmar1', { SUBSYSTEM: 'iommu' }), [
      'changed',
      null,
      'the IOMMU dmar1 is there',
    ])
  })

  it('says nothing of what is no PCI function, and of what VFIO has nothing to do with', () => {
    for (const [action, path, subsystem] of [
      ['add', '/devices/pci0000:00/0000:00:03.0/net/eth0', 'net'],
      ['add', '/bus/pci/drivers/vfio-pci', 'drivers'],
      ['change', '/devices/virtual/vfio/12', 'vfio'],
      ['add', '/devices/virtual/vfio/vfio', 'vfio'],
      ['move', PATH, 'pci'],
      ['add', '/devices/virtual/mtty/1f2e/vfio-dev/vfio0', 'vfio-dev'],
      ['add', '/devices/pci0000:00', 'pci'],
    ] as const)
      assert.equal(told(action, path, { SUBSYSTEM: subsystem }), null, path)
  })

  it('may be anything (property)', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        eventOfUevent(bytes)
        eventsOfRecord(bytes)
        const wrapped = Buffer.concat([Buffer.from(`add@${PATH}\0SUBSYSTEM=pci\0`), bytes])
        // Whatever follows, the first of each name may be replaced by a later one, and nothing else.
        const event = eventOfUevent(wrapped)
        assert.ok(event === null || event.kind === 'added' || !('group' in event))
      }),
      { seed: SEED },
    )
  })
})

describe('a record of the log', () => {
  const at = '0000:01:00.0'

  it('tells that somebody wants a device back', () => {
    for (const [text, what] of [
      [`vfio-pci ${at}: Relaying device request to user (#10)`, /is asked to release it/],
      [`vfio-pci ${at}: No device request channel registered, blocked until released by user`, /close it/],
      [
        `vfio-pci ${at}: Device is currently in use, task "sh" (12) blocked until device is released`,
        /waits/,
      ],
    ] as const) {
      const [[kind, address, sentence] = [], ...others] = said(text, at)
      assert.deepEqual([kind, address, others], ['release-requested', at, []])
      assert.match(String(sentence), what)
    }
  })

  it('tells of PCIe errors, by the device that has one and by the port that was told', () => {
    for (const severity of ['Uncorrected (Non-Fatal)', 'Uncorrectable (Fatal)', 'Corrected', 'Correctable']) {
      const kind = severity.startsWith('C') ? 'corrected' : 'error'
      assert.deepEqual(
        said(
          `vfio-pci ${at}: PCIe Bus Error: severity=${severity}, type=Transaction Layer, (Receiver ID)`,
          at,
        ),
        [[kind, at, `${at} has a PCIe error: ${severity}`]],
      )
      assert.deepEqual(
        said(`vfio-pci ${at}: CXL Bus Error: severity=${severity}`, at).map(([what]) => what),
        [kind],
      )
      for (const text of [
        `pcieport 0000:00:03.0: AER: ${severity} error received: ${at}`,
        `pcieport 0000:00:03.0: AER: Multiple ${severity} error message received from ${at}`,
        `pcieport 0000:00:03.0: AER: ${severity} Error message received from ${at} (no details found)`,
        `pcieport 0000:00:03.0: AER: Multiple ${severity} Error messages received, first one from ${at}`,
      ]) {
        const events = said(text, '0000:00:03.0')
        assert.deepEqual(
          events.map(([what, address]) => [what, address]).sort(),
          [
            [kind, '0000:00:03.0'],
            [kind, at],
          ].sort(),
          text,
        )
      }
    }
  })

  it('says nothing where a program wrote it, no device is named, or it is about something else', () => {
    const text = `vfio-pci ${at}: Relaying device request to user (#0)`
    assert.equal(said(text, at, 5).length, 1)
    assert.deepEqual(said(text, at, 12), [])
    assert.deepEqual(said(text), [])
    assert.deepEqual(said(text, '../../etc'), [])
    assert.deepEqual(said(`pcieport ${at}: AER: enabled with IRQ 24`, at), [])
    assert.deepEqual(said(`vfio-pci ${at}: enabling device (0000 -> 0002)`, at), [])
    assert.deepEqual(eventsOfRecord(Buffer.from('nonsense')), [])
  })
})
