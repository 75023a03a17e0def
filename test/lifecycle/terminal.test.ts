import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { journalOf, photographOf, SINGLE } from '../unit/assign-hosts.js'
import { makeKernelHost } from '../unit/assign-kernel.js'

const PROGRAM = fileURLToPath(new URL('../unit/launch-program.js', import.meta.url))
const DRIVER = fileURLToPath(new URL('../../../../test/lifecycle/terminal.py', import.meta.url))

/**
 * It says which keys it got, and ends at the third Ctrl-C; it leaves the terminal without echo. It starts nothing while
 * keys come: a shell that is stopped between vfork and exec of a child waits for that, and never stops itself.
 */
const COMMAND = `
n=0
sleep 1000 &
trap 'n=$((n+1)); echo "key $n"' INT
trap 'echo quit' QUIT
trap 'echo going' CONT
stty -echo
echo "ready"
while [ $n -lt 3 ]; do wait; done
kill $!
exit 4`

/** Types at a shell with job control, in which `run` is a run of a command on a host of the tests; what it shows. */
async function typed(command: string, lines: readonly string[]) {
  const trees = makeKernelHost(SINGLE)
  const asItWas = photographOf(trees)
  // A sanitizer is for the program that has the addon, and for no shell.
  const task = {
    ...{ trees, journal: journalOf(trees), address: '0000:01:00.0' },
    command: ['env', '-u', 'LD_PRELOAD', 'sh', '-c', command],
  }
  const script = join(temporaryDirectory(), 'run')
  writeFileSync(`${script}.json`, JSON.stringify(task))
  const program = `${process.execPath} ${PROGRAM} "$(cat ${script}.json)"`
  writeFileSync(script, `exec env LD_PRELOAD="$VFIO_LIBASAN" ${program}\n`)
  // Without an editor of lines, which would read the keys itself.
  const child = spawn('python3', [DRIVER, 'bash', '--norc', '--noprofile', '--noediting', '-i'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, HISTFILE: '', LD_PRELOAD: '' },
    // With its terminal all that is in it goes.
    timeout: 100_000,
    killSignal: 'SIGKILL',
  })
  child.stdin.end(
    [`PS1='PROM''PT '`, '%PROMPT', ...lines, 'exit 0', ''].join('\n').replaceAll('{run}', `sh ${script}`),
  )
  const [said, [status]] = await Promise.all([text(child.stdout), once(child, 'close')])
  assert.equal(status, 0, said)
  assert.deepEqual(photographOf(trees), asItWas)
  return said
}

describe('a terminal', function () {
  this.timeout(120_000)
  after(removeDirectories)

  it('sends each Ctrl-C to the command, as often as it is pressed, and is as before afterwards', async () => {
    const said = await typed(COMMAND, [
      '{run}',
      ...['%ready', '^C', '%key 1', '^\\', '%quit', '^C', '%key 2', '^C', '%key 3'],
      ...['%ended with 4', '%PROMPT', 'stty -a', '% echo ', '%PROMPT'],
    ])
    assert.doesNotMatch(said, /once more ends this|SIGINT/)
  })

  it('stops the command and its run with Ctrl-Z, and lets both go on', async () => {
    await typed(COMMAND, [
      '{run}',
      ...['%ready', '^Z', '%Stopped', '%PROMPT', 'stty -a', '% echo ', '%PROMPT'],
      // The shell says whom it lets go on before that has the terminal.
      ...['fg', '%going', 'x', '^C', '%key 1', '^C', '%key 2', '^C', '%key 3', '%ended with 4', '%PROMPT'],
    ])
  })

  it('is not taken from the shell by what runs in the background, until that gets it', async () => {
    await typed('read line; echo "got $line"; exit 6', [
      '{run} &',
      // It asks for what is typed, and is stopped for that by the kernel.
      ...['%PROMPT', 'wait -n; jobs', '%Stopped', '%PROMPT', 'fg', '%sh ', 'words', '%got words'],
      ...['%ended with 6', '%PROMPT'],
    ])
  })
})
