import { accessSync, constants, readFileSync, writeFileSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { cacheDirectory, exclusively } from './cache.js'
import type { Emulator } from './emulator.js'
import { isNative, type LabHost } from './hosts.js'
import type { Kernel } from './kernels.js'
import { type Accelerator, runMachine } from './machine.js'

/** A stock kernel under working hardware virtualization is up in 2 s. */
const PROBE_SECONDS = 20

/** KVM where it boots a guest, else software emulation: /dev/kvm may be there and still hang. */
export async function acceleratorFor(
  host: LabHost,
  emulator: Emulator,
  kernel: Kernel,
  say: (line: string) => void,
): Promise<Accelerator> {
  if (!isNative(host)) return 'tcg'
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK)
  } catch {
    return 'tcg'
  }
  // The answer is the host's: another host kernel may answer otherwise.
  const file = join(cacheDirectory(), `accelerator-${release()}`)
  return (
    remembered(file) ??
    exclusively('accelerator', async () => remembered(file) ?? probe(host, emulator, kernel, file, say))
  )
}

function remembered(file: string): Accelerator | undefined {
  try {
    return readFileSync(file, 'utf8').trim() === 'kvm' ? 'kvm' : 'tcg'
  } catch {
    return undefined
  }
}

async function probe(
  host: LabHost,
  emulator: Emulator,
  kernel: Kernel,
  file: string,
  say: (line: string) => void,
): Promise<Accelerator> {
  say(`trying /dev/kvm once, ${PROBE_SECONDS} s at most`)
  const { outcome } = await runMachine({
    host,
    emulator,
    root: '/',
    shared: [],
    kernel,
    accelerator: 'kvm',
    devices: [],
    vfio: false,
    monitor: false,
    job: 'true',
    streams: { stdin: null, stdout: new PassThrough().resume(), stderr: new PassThrough().resume() },
    terminal: null,
    bootSeconds: PROBE_SECONDS,
    timeoutSeconds: PROBE_SECONDS,
    signal: undefined,
  })
  const accelerator = outcome.kind === 'exited' && outcome.status === 0 ? 'kvm' : 'tcg'
  writeFileSync(file, `${accelerator}\n`)
  say(accelerator === 'kvm' ? '/dev/kvm works' : '/dev/kvm does not boot a guest: using software emulation')
  return accelerator
}
