import { constants } from 'node:os'
import { builtin } from '../builtin.js'
import { errnoOf } from './unseen.js'

/**
 * Reads on which the kernel may block for ever, without the addon: one process reads (`vfio-read`), a second one waits for it
 * until a deadline and then leaves it behind. This program waits for the second one, synchronously and without hanging.
 * Both are this runtime, with the programs below.
 */

/** Answers in lines: a negated errno, or `+` and the bytes in base64. The first one says that it has started. */
const LOOKER = `
process.title = 'vfio-read'
const fs = require('fs')
const say = (line) => {
  const bytes = Buffer.from(line + '\\n')
  for (let at = 0; at < bytes.length; ) at += fs.writeSync(1, bytes, at)
}
const { kind, paths } = JSON.parse(fs.readFileSync(0, 'utf8'))
const { O_RDONLY, O_NOCTTY } = fs.constants
const errnos = require('os').constants.errno
const buffer = Buffer.alloc(4096)
const looks = {
  read: (path) => {
    const file = fs.openSync(path, O_RDONLY | O_NOCTTY)
    try {
      return buffer.subarray(0, fs.readSync(file, buffer, 0, buffer.length, null))
    } finally {
      fs.closeSync(file)
    }
  },
  stat: (path) => {
    const { mode, rdev } = fs.statSync(path, { bigint: true })
    return Buffer.from(mode + ' ' + rdev)
  },
}
say('started')
for (const path of paths) {
  let line
  try {
    line = '+' + looks[kind](Buffer.from(path, 'base64')).toString('base64')
  } catch (error) {
    line = String(-(errnos[error.code] || -error.errno || errnos.EIO))
  }
  say(line)
}
`

/** The first line of the waiter's output: a runtime that is another program prints something else. */
const MARK = 'vfio-read'

/** Prints the answers in lines, an empty one for what was not answered. */
const WAITER = `
const { spawn } = require('child_process')
const fs = require('fs')
const { looker, kind, paths, patience, start, losses } = JSON.parse(fs.readFileSync(0, 'utf8'))
const answers = []
let lost = 0
const end = () => {
  const bytes = Buffer.from(['${MARK}', ...answers].join('\\n'))
  for (let at = 0; at < bytes.length; ) at += fs.writeSync(1, bytes, at)
  process.exit(0)
}
const ask = () => {
  const child = spawn(process.execPath, ['-e', looker], { detached: true, stdio: ['pipe', 'pipe', 'ignore'] })
  let over = false
  let rest = ''
  let hasStarted = false
  // Slow, but kept waiting by nothing: the machine is busy, or another processor emulated.
  let slowest = Date.now() + start
  const isRunning = () => {
    try {
      const text = fs.readFileSync('/proc/' + child.pid + '/stat', 'latin1')
      return text[text.lastIndexOf(')') + 2] === 'R'
    } catch {
      return false
    }
  }
  let heard = 0
  const judge = () => {
    const before = heard
    // What has come meanwhile is taken first, where this process is the slow one.
    setImmediate(() => {
      if (over || heard !== before) return
      if (Date.now() > slowest || !isRunning()) return leave()
      timer = setTimeout(judge, patience)
    })
  }
  const leave = () => {
    if (over) return
    over = true
    clearTimeout(timer)
    child.kill('SIGKILL')
    if (answers.length === paths.length) return end()
    answers.push('')
    lost += 1
    // One that does not even start tells nothing of the files: the next one would not either.
    if (hasStarted && lost < losses && answers.length < paths.length) ask()
    else end()
  }
  let timer = setTimeout(leave, start)
  child.on('error', leave)
  child.stdin.on('error', () => {})
  child.stdin.end(JSON.stringify({ kind, paths: paths.slice(answers.length) }))
  child.stdout.on('error', leave).on('close', leave)
  child.stdout.on('data', (chunk) => {
    if (over) return
    const lines = (rest + chunk.toString('latin1')).split('\\n')
    rest = lines.pop()
    if (lines.length === 0) return
    heard += 1
    clearTimeout(timer)
    timer = setTimeout(judge, patience)
    slowest = Date.now() + start
    for (const line of lines) {
      if (hasStarted) answers.push(line)
      hasStarted = true
    }
    if (answers.length === paths.length) leave()
  })
}
ask()
`

/** As many files as may be left unanswered before no more are asked for. */
const LOSSES = 3

/** How long the runtime may take to start, in milliseconds: it may be emulated, and the machine busy. */
const START = 60_000

/** Tells a program that it was started in place of the runtime. */
const BESIDE = 'VFIO_BESIDE'

/**
 * Reads the first 4,096 bytes of each file (`read`), or tells its mode and device number in decimal (`stat`): a negated
 * errno for what failed, and `ETIMEDOUT` for what the kernel has kept waiting for `patience` milliseconds, and for all behind the
 * third of these.
 */
export function askBeside(
  kind: 'read' | 'stat',
  paths: readonly (string | Buffer)[],
  patience: number,
): (Uint8Array | number)[] {
  if (paths.length === 0) return []
  const input = JSON.stringify({
    looker: LOOKER,
    kind,
    paths: paths.map((path) => Buffer.from(path).toString('base64')),
    patience,
    start: START,
    losses: LOSSES,
  })
  // The waiter and the looker start, and each file may take all of its patience: what takes longer is something else.
  const { lines, errno } = run(input, 2 * START + (paths.length + LOSSES) * patience)
  return paths.map((_path, index) => {
    const line = lines[index] ?? ''
    if (line.startsWith('+')) return Buffer.from(line.slice(1), 'base64')
    return /^-\d+$/.test(line) ? Number(line) : -errno
  })
}

/** Its answers, and the errno of what it did not answer. */
function run(input: string, timeout: number): { readonly lines: readonly string[]; readonly errno: number } {
  const { ETIMEDOUT, EACCES } = constants.errno
  // A single executable is the program itself, whatever it is told to run: it would look again, and start itself again.
  if (process.env[BESIDE]) return { lines: [], errno: EACCES }
  try {
    const { stdout, error } = builtin('node:child_process').spawnSync(process.execPath, ['-e', WAITER], {
      input,
      cwd: '/',
      // It is to run these programs and nothing else: neither what Node is told to load or to measure, nor an
      // Electron app.
      env: {
        ...process.env,
        NODE_OPTIONS: '',
        NODE_V8_COVERAGE: '',
        ELECTRON_RUN_AS_NODE: '1',
        [BESIDE]: '1',
      },
      timeout,
      killSignal: 'SIGKILL',
      encoding: 'latin1',
      maxBuffer: Number.POSITIVE_INFINITY,
      stdio: ['pipe', 'pipe', 'ignore'],
      windowsHide: true,
    })
    if (error) return { lines: [], errno: errnoOf(error) ?? EACCES }
    const [mark, ...lines] = stdout.split('\n')
    return mark === MARK ? { lines, errno: ETIMEDOUT } : { lines: [], errno: EACCES }
  } catch {
    // A program that may start no process (node --permission).
    return { lines: [], errno: EACCES }
  }
}
