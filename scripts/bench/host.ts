import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { SCRATCH } from '../../test/fixtures/host.js'
import { describeLargeHost, writeLargeHost } from '../../test/fixtures/large-host.js'
import { alternate, type Pair, type Result, result, timeProgram } from './measure.js'

const ROUNDS = 11

/** What happens on the machine itself: looking at many functions and at few, importing the package, the addon's size. */
export function benchHost(addon: string): Result[] {
  const tree = mkdtempSync(join(SCRATCH, 'vfio-bench-'))
  try {
    const { sysfs } = writeLargeHost(join(tree, 'large'), 4096)
    const small = writeLargeHost(join(tree, 'small'), 128)
    const lspci = () => timeProgram('lspci', ['-O', `sysfs.path=${sysfs}/bus/pci`, '-Dnnk'])
    const list = () => timeProgram(process.execPath, ['dist/cli/main.js', 'list', '--json', '--sysfs', sysfs])
    const inProcess = () => timeInProcess(sysfs)
    const listed = alternate(ROUNDS, list, lspci)
    // Any one function will do: looking at all of them is what takes the time.
    const [address = ''] = describeLargeHost(4096).flatMap(({ driver, address }) =>
      driver === 'nvme' ? [address] : [],
    )
    const dryRun = () =>
      timeProgram(process.execPath, [
        'dist/cli/main.js',
        'bind',
        '--dry-run',
        '--json',
        '--sysfs',
        sysfs,
        address,
      ])
    const planned = alternate(ROUNDS, dryRun, lspci)
    const snapshot = alternate(ROUNDS, inProcess, lspci)
    const topology = benchTopology(tree)
    const empty = () => timeProgram(process.execPath, ['-e', '0'])
    const importOf = (name: string, from?: string) =>
      timeProgram(process.execPath, ['-e', `import '${name}'`], {}, from)
    const imports = alternate(3 * ROUNDS, () => importOf('vfio'), empty)
    // What any import costs is Node's own.
    writeEmptyPackage(tree)
    const importsOfEmpty = alternate(
      3 * ROUNDS,
      () => importOf('vfio'),
      () => importOf('empty', tree),
    )
    const few = alternate(
      3 * ROUNDS,
      () => timeProgram(process.execPath, ['dist/cli/main.js', 'list', '--sysfs', small.sysfs]),
      empty,
    )
    // Above it since iommufd came, whose calls take 12 kB; what is put in line on the way of quick calls takes 4 kB.
    const size = [{ ours: strippedSize(addon, tree), peer: 200_000 }]
    return [
      result('vfio list --json of 4,096 functions : lspci -Dnnk', listed, 'ms', 0.95),
      result('vfio bind --dry-run --json of 4,096 functions : lspci -Dnnk', planned, 'ms', 0.5),
      result('a second snapshot and all verdicts of 4,096 functions : lspci -Dnnk', snapshot, 'ms', 0.45),
      result('vfio list of 128 functions : node -e 0', few, 'ms', 1.5),
      result(`node -e "import 'vfio'" : node -e 0`, imports, 'ms', 1.12),
      result(`node -e "import 'vfio'" : the same of an empty package`, importsOfEmpty, 'ms', 1.05),
      result('what vfio topology of 500 functions takes more than vfio list : 50 ms', topology, 'ms', 1),
      result('stripped addon : 200 kB', size, 'B', 1),
    ]
  } finally {
    rmSync(tree, { recursive: true })
  }
}

function writeEmptyPackage(tree: string): void {
  const directory = join(tree, 'node_modules/empty')
  mkdirSync(directory, { recursive: true })
  writeFileSync(
    join(directory, 'package.json'),
    '{ "name": "empty", "type": "module", "exports": "./index.js" }\n',
  )
  writeFileSync(join(directory, 'index.js'), 'export {}\n')
}

/** How much longer the drawing takes than the list, against what it may; of neither is compiled code kept, as of the list it is. */
function benchTopology(tree: string): Pair[] {
  const { sysfs } = writeLargeHost(join(tree, 'drawn'), 500)
  const time = (command: string) =>
    timeProgram(process.execPath, ['dist/cli/main.js', command, '--sysfs', sysfs], {
      NODE_DISABLE_COMPILE_CACHE: '1',
    })
  const pairs = alternate(
    ROUNDS,
    () => time('topology'),
    () => time('list'),
  )
  return pairs.map(({ ours, peer }) => ({ ours: Math.max(0, ours - peer), peer: 50 }))
}

/** Without what only a debugger reads. */
function strippedSize(addon: string, directory: string): number {
  const stripped = join(directory, 'stripped.node')
  execFileSync('strip', ['-o', stripped, addon])
  return statSync(stripped).size
}

/** A process of its own each time, in which it is the second look. */
function timeInProcess(sysfs: string): number {
  const script = `
    const { Host, survey } = await import('vfio')
    const host = new Host({ sysfs: process.argv[1] })
    host.snapshot()
    const start = performance.now()
    survey(host.snapshot())
    process.stdout.write(String(performance.now() - start))`
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['--input-type=module', '-e', script, sysfs],
    { encoding: 'utf8' },
  )
  if (status !== 0) throw new Error(stderr)
  return Number(stdout)
}
