import assert from 'node:assert/strict'
import { mkdirSync, readlinkSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Host, type HostOptions, type Snapshot } from 'vfio'
import { makeHost, removeDirectories } from '../fixtures/host.js'

const PORT = '0000:00:01.0'
const CARD = '0000:01:00.0'
const NIC = '0000:02:00.0'
const VF = '0000:02:10.0'
const VGPU = '0000:03:00.0'

/** What happens to a host between two looks, by its directory of devices and that of sysfs. */
const CHANGES: readonly [what: string, change: (at: string, sysfs: string) => void][] = [
  ['a driver goes', (at) => unlinkSync(join(at, CARD, 'driver'))],
  ['a driver comes', (at) => symlinkSync('../../../../bus/pci/drivers/vfio-pci', join(at, CARD, 'driver'))],
  ['an override is written', (at) => writeFileSync(join(at, CARD, 'driver_override'), 'vfio-pci\n')],
  ['an override is taken back', (at) => writeFileSync(join(at, CARD, 'driver_override'), '(null)\n')],
  ['reset methods are chosen', (at) => writeFileSync(join(at, CARD, 'reset_method'), 'bus\n')],
  ['a function falls silent', (at) => writeFileSync(join(at, NIC, 'config'), Buffer.alloc(256, 0xff))],
  ['a function goes to sleep', (at) => writeFileSync(join(at, NIC, 'power_state'), 'D3cold\n')],
  ['another node of memory is written', (at) => writeFileSync(join(at, NIC, 'numa_node'), '1\n')],
  ['a BAR is resized', (at) => writeFileSync(join(at, CARD, 'resource'), '0x1000 0x1fff 0x200\n')],
  ['a group goes', (at) => unlinkSync(join(at, NIC, 'iommu_group'))],
  [
    'a group comes late',
    (at) => symlinkSync('../../../../kernel/iommu_groups/9', join(at, NIC, 'iommu_group')),
  ],
  ['it is the boot display', (at) => writeFileSync(join(at, CARD, 'boot_vga'), '1\n')],
  ['virtual functions are allowed', (at) => allowVfs(join(at, NIC))],
  ['a function is no virtual one', (at) => unlinkSync(join(at, VF, 'physfn'))],
  ['a profile of a vGPU is made', (at) => writeIn(join(at, VGPU, 'nvidia'), 'current_vgpu_type', '1155\n')],
  ['a VFIO device is made', (at) => writeIn(join(at, CARD, 'vfio-dev/vfio3'), 'uevent', '')],
  ['a VFIO device has a node', (at) => writeFileSync(join(at, CARD, 'vfio-dev/vfio3/dev'), '511:3\n')],
  ['a slot is named', (_at, sysfs) => writeIn(join(sysfs, 'bus/pci/slots/1'), 'address', '0000:01:00\n')],
  ['a slot moves', (_at, sysfs) => writeFileSync(join(sysfs, 'bus/pci/slots/1/address'), '0000:02:00\n')],
  ['ids are gone from modalias', (at) => unlinkSync(join(at, CARD, 'modalias'))],
  ['and from elsewhere', (at) => writeFileSync(join(at, CARD, 'vendor'), '0x5678\n')],
  ['and are there again', (at) => writeFileSync(join(at, CARD, 'modalias'), MODALIAS)],
  ['a domain has another type', (_at, sysfs) => writeIn(join(sysfs, GROUP), 'type', 'identity\n')],
  ['memory is reserved', (_at, sysfs) => writeIn(join(sysfs, GROUP), 'reserved_regions', REGION)],
  [
    'a group gets a member of another bus',
    (_at, sysfs) => writeIn(join(sysfs, GROUP, 'devices'), 'uart0', ''),
  ],
  ['a function is unplugged', (at) => renameSync(join(at, VGPU), join(at, '.away'))],
  ['a function is plugged in', (at) => renameSync(join(at, '.away'), join(at, VGPU))],
  ['another takes its place', (at) => replace(join(at, VGPU), join(at, CARD))],
  ['a bridge is gone', (at) => rmSync(join(at, PORT), { recursive: true })],
]

const GROUP = 'kernel/iommu_groups/7'
const REGION = '0x0000000000100000 0x00000000001fffff direct\n'
const MODALIAS = 'pci:v000010DEd00002204sv00001458sd0000403Bbc03sc00i00\n'

function writeIn(directory: string, name: string, text: string): void {
  mkdirSync(directory, { recursive: true })
  writeFileSync(join(directory, name), text)
}

/** As somebody sees it who may read the header alone. */
function allowVfs(at: string): void {
  writeFileSync(join(at, 'config'), Buffer.alloc(64))
  writeFileSync(join(at, 'sriov_totalvfs'), '7\n')
}

/** Of two names the first means what the second does. */
function replace(name: string, other: string): void {
  const target = readlinkSync(other)
  rmSync(name, { recursive: true })
  symlinkSync(target, name)
}

/** All of it but when it was looked at. */
const told = ({ host, groups, devices, use, unseen, mediated }: Snapshot) =>
  JSON.parse(
    JSON.stringify({ host, groups, devices, use, unseen, mediated }, (_name, value) =>
      typeof value === 'bigint' ? String(value) : value,
    ),
  )

describe('a second look by one host', () => {
  after(removeDirectories)
  let trees: HostOptions & { readonly sysfs: string }
  let host: Host
  before(() => {
    trees = makeHost({
      devices: [
        { address: PORT, headerType: 'bridge', secondaryBus: 1, driver: 'pcieport', group: 1 },
        { address: CARD, class: 0x030000, driver: 'nouveau', group: 7, resetMethod: 'flr bus' },
        { address: NIC, class: 0x020000, driver: 'igb', group: 9, totalVfs: 3, resetMethod: 'flr' },
        { address: VF, class: 0x020000, driver: 'igbvf', group: 10, physfn: NIC, resetMethod: 'flr' },
        { address: VGPU, vendor: 0x10de, class: 0x030200, driver: 'nvidia', group: 11, resetMethod: 'bus' },
      ],
    })
    host = new Host(trees)
    host.snapshot()
  })

  for (const [what, change] of CHANGES) {
    it(`sees that ${what}, and has what did not change from the last`, () => {
      const former = host.snapshot()
      assert.equal(host.snapshot().devices, former.devices)
      // Who else is in a group is looked at each time.
      if (former.groups.every(({ others }) => others.length === 0)) {
        assert.equal(host.snapshot().groups, former.groups)
      }
      change(join(trees.sysfs, 'bus/pci/devices'), trees.sysfs)
      const seen = told(host.snapshot())
      assert.notDeepEqual(seen, told(former))
      assert.deepEqual(seen, told(new Host(trees).snapshot()))
    })
  }
})
