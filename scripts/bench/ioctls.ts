// Runs inside the guest: the same ioctls from JavaScript and from C on one device, in turn. Prints JSON.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Host, openDevice, survey } from 'vfio'
import { median } from './measure.js'

// Compiling JavaScript takes a second where the processor is emulated: what a call costs shows behind that.
const COUNT = 200_000
const ROUNDS = 5
const NAMES = ['status', 'regionInfo', 'irqInfo'] as const

type Times = Record<(typeof NAMES)[number], number>

async function timeOurs(address: string): Promise<Times> {
  await using opened = await openDevice(address)
  const { group, device } = opened
  const time = (question: () => unknown) => {
    const start = performance.now()
    for (let i = 0; i < COUNT; i++) question()
    return ((performance.now() - start) * 1e6) / COUNT
  }
  return {
    status: time(() => group.status()),
    regionInfo: time(() => device.regionInfo('bar0')),
    irqInfo: time(() => device.irqInfo('msix')),
  }
}

function timePeer(program: string, group: number, address: string): Times {
  const lines = execFileSync(program, [String(group), address, String(COUNT)], { encoding: 'utf8' })
  return Object.fromEntries(
    lines
      .trim()
      .split('\n')
      .map((line) => line.split(' '))
      .map(([name, time]) => [name, Number(time)]),
  ) as Times
}

function bind(address: string): void {
  writeFileSync(`/sys/bus/pci/devices/${address}/driver_override`, 'vfio-pci\n')
  writeFileSync('/sys/bus/pci/drivers_probe', `${address}\n`)
}

const seen = new Host().snapshot()
const free = survey(seen).devices.find(
  ({ address, verdict, driver, toBind }) =>
    verdict === 'bindable' &&
    driver === null &&
    toBind.length === 1 &&
    seen.device(address).capabilities.msix,
)
if (!free || free.group === null) throw new Error('this guest has no free device with MSI-X')
const device = { address: free.address, group: free.group }
bind(device.address)
const program = join(mkdtempSync('/tmp/bench-'), 'ioctls')
execFileSync('cc', ['-O2', '-o', program, 'scripts/bench/ioctls.c'])
const rounds: { ours: Times; peer: Times }[] = []
for (let round = 0; round <= ROUNDS; round++) {
  rounds.push({ ours: await timeOurs(device.address), peer: timePeer(program, device.group, device.address) })
}
// The first round warms up both.
const counted = rounds.slice(1)
const report = NAMES.map((name) => ({
  name,
  ours: median(counted.map(({ ours }) => ours[name])),
  peer: median(counted.map(({ peer }) => peer[name])),
}))

console.log(JSON.stringify(report))
