import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { exportQemu, type QemuOptions, type Snapshot } from 'vfio'
import { removeDirectories } from '../fixtures/host.js'
import { see } from './support.js'

const FUNCTIONS = ['0001:00:00.0', '0002:00:00.0']

const CASES: readonly QemuOptions[] = [
  { zpci: { uid: 1 } },
  { zpci: { uid: 0x10, fid: 2 }, guestAddress: '00:08.0' },
  { zpci: { uid: 0xfffe, fid: 0xfffffffe } },
  { machine: 's390-ccw-virtio' },
  { machine: 's390-ccw-virtio-9.2', iommufd: true },
]

/** That of the lab, which runs as TypeScript. */
function findEmulator(host: string): { program: string; args: string[] } {
  const program = `import { emulatorFor } from './scripts/lab/emulator.ts'
    import { findHost } from './scripts/lab/hosts.ts'
    console.log(JSON.stringify(await emulatorFor(findHost('${host}'), console.error)))`
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '-e', program],
    { encoding: 'utf8' },
  )
  assert.equal(status, 0, stderr)
  return JSON.parse(stdout)
}

describe('the arguments for a QEMU of s390x', function () {
  this.timeout(300_000)
  let emulator: { program: string; args: string[] }
  let seen: Snapshot

  before(() => {
    seen = see({
      devices: FUNCTIONS.map((address, index) => ({ address, driver: 'vfio-pci', group: index })),
    })
    emulator = findEmulator('s390x')
  })

  after(removeDirectories)

  /** QEMU as it stands before its guest runs, asked what it has. */
  function start(machine: string, words: readonly string[]) {
    const { program, args } = emulator
    const rest = ['-nodefaults', '-display', 'none', '-S', '-accel', 'tcg', '-m', '64', '-monitor', 'stdio']
    return spawnSync(program, [...args, '-M', machine, ...rest, ...words], {
      input: 'info qtree\nquit\n',
      encoding: 'utf8',
    })
  }

  for (const options of CASES) {
    it(`are taken as they are: ${JSON.stringify(options)}`, () => {
      const exported = exportQemu(seen, FUNCTIONS, options)
      const real = start(exported.machine, exported.arguments)
      // It goes as far as the device, which this machine does not have.
      assert.match(real.stderr, new RegExp(`vfio /sys/bus/pci/devices/${FUNCTIONS[0]}: no such host device`))

      // Another device in its place shows that each finds its zPCI side by id.
      const others = exported.arguments.map((word) =>
        word.replace(/^vfio-pci,host=[^,]*/, 'virtio-rng-pci').replace(/,iommufd=[^,]*/, ''),
      )
      const { stdout, stderr, status } = start(exported.machine, others)
      assert.equal(status, 0, stderr)
      const sides = [
        ...stdout.matchAll(/dev: zpci, id "(.*)"\s+uid = (\d+).*\s+fid = (\d+).*\s+target = "(.*)"/g),
      ]
      const { uid, fid } = options.zpci ?? {}
      assert.deepEqual(
        // The last one comes first.
        sides
          .toReversed()
          .map(([, id, seenUid, seenFid, target]) => [
            id,
            uid && Number(seenUid),
            fid && Number(seenFid),
            target,
          ]),
        exported.devices.map(({ id }, index) => [
          `vfio-zpci${index}`,
          uid && uid + index,
          fid && fid + index,
          id,
        ]),
      )
      for (const { id } of exported.devices)
        assert(stdout.includes(`dev: virtio-rng-pci, id "${id}"`), stdout)
    })
  }
})
