// The main job on real input: a VFIO guest, in which the command line sees, judges, asks the kernel and resets.
import { LabError, messageOf } from './lab/errors.js'
import { runInGuest } from './lab/guest.js'

const say = (line: string) => console.error(`demo: ${line}`)

try {
  say('booting a VFIO host under QEMU: nothing of this machine is touched')
  const { status, failure, bootSeconds } = await runInGuest({
    command: [process.execPath, 'build/ts/scripts/demo-guest.js'],
    timeoutSeconds: 300,
    say,
  })
  if (failure !== null) throw new LabError(failure)
  if (status === 0) say(`done; the guest (up after ${bootSeconds.toFixed(1)} s) is gone again`)
  process.exitCode = status
} catch (error) {
  say(messageOf(error))
  process.exitCode = 1
}
