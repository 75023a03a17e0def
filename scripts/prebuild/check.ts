import { execFile, execFileSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { messageOf } from '../lab/errors.js'
import { compilerFor } from './compiler.js'
import { inspect, neededGlibc } from './inspect.js'
import { lockedPackages } from './locked.js'
import { binaryOf, GLIBC_FLOOR, ROOT, type Target } from './targets.js'

const run = promisify(execFile)

/** What a program needs to be run on the system of a target. */
interface Runtime {
  readonly name: string
  readonly command: readonly string[]
  readonly environment: NodeJS.ProcessEnv
}

/** What was found about a binary that can be shipped. */
export interface Checked {
  readonly target: Target
  readonly bytes: number
  /** The oldest glibc that it runs with; null for musl. */
  readonly glibc: string | null
  /** What loaded it; null where nothing here can. */
  readonly runtime: string | null
  readonly reason: string
}

/** The binary below `root`. @throws Error where it cannot be shipped. */
export async function check(target: Target, root: string, say: (line: string) => void): Promise<Checked> {
  const binary = binaryOf(target)
  const file = join(root, binary)
  if (!existsSync(file)) throw new Error(`${binary} is not there`)
  const symbols = inspect(file)
  const glibc = neededGlibc(symbols)
  if ((glibc === null) !== (target.libc === 'musl')) throw new Error(`${binary} is not for ${target.libc}`)
  if (glibc !== null && Number(glibc.slice(2)) > Number(GLIBC_FLOOR.slice(2)))
    throw new Error(`${binary} needs glibc ${glibc}, and ${GLIBC_FLOOR} has to do`)
  const bytes = statSync(file).size
  if (bytes > target.bytes) throw new Error(`${binary} has ${bytes} bytes, and ${target.bytes} are the most`)
  const found = { target, bytes, glibc }
  let runtime: Runtime
  try {
    runtime = await runtimeFor(target, say)
  } catch (error) {
    return { ...found, runtime: null, reason: messageOf(error) }
  }
  await load(target, root, runtime)
  return { ...found, runtime: runtime.name, reason: '' }
}

/** Lets a runtime use the package with this binary alone. */
async function load(target: Target, root: string, runtime: Runtime): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), 'vfio-load-'))
  try {
    const binary = binaryOf(target)
    for (const name of ['package.json', 'dist'])
      cpSync(join(ROOT, name), join(scratch, name), { recursive: true })
    cpSync(join(root, binary), join(scratch, binary))
    const device = { address: '0000:00:02.0', vendor: 0x1234, device: 0x11e8 }
    const sysfs = join(scratch, 'sys')
    const directory = join(sysfs, 'bus/pci/devices', device.address)
    mkdirSync(directory, { recursive: true })
    writeFileSync(join(directory, 'vendor'), `0x${device.vendor.toString(16)}\n`)
    writeFileSync(join(directory, 'device'), `0x${device.device.toString(16)}\n`)
    writeFileSync(join(directory, 'class'), '0x00ff00\n')
    const [program = '', ...args] = runtime.command
    const script = join(ROOT, 'scripts/prebuild/load.mjs')
    const { stdout } = await run(program, [...args, script, scratch, sysfs], {
      cwd: scratch,
      env: { ...runtime.environment, PATH: process.env.PATH },
    })
    const said = JSON.parse(stdout) as { seen: unknown[] }
    const expected = { arch: target.arch, mapped: binary, refused: 'ENOENT', seen: [device] }
    if (JSON.stringify(said) !== JSON.stringify(expected))
      throw new Error(`${JSON.stringify(said)} instead of ${JSON.stringify(expected)}`)
  } catch (error) {
    throw new Error(`${binaryOf(target)} does not work in ${runtime.name}: ${messageOf(error)}`)
  } finally {
    rmSync(scratch, { recursive: true })
  }
}

/** @throws Error with what is missing. */
async function runtimeFor(target: Target, say: (line: string) => void): Promise<Runtime> {
  const { arch, libc, processor } = target
  if (arch === process.arch && libc === 'glibc')
    return { name: `Node ${process.version}`, command: [process.execPath], environment: {} }
  if (libc === 'glibc') {
    const emulator = `qemu-${processor}-static`
    const libraries = `/usr/${processor}-linux-gnu`
    for (const [there, name] of [
      [programExists(emulator), `${emulator} (Debian: qemu-user-static)`],
      [existsSync(join(libraries, 'lib/libstdc++.so.6')), `${libraries} (Debian: libstdc++6-${arch}-cross)`],
    ] as const) {
      if (!there) throw new Error(`${name} is missing`)
    }
    const node = join(await lockedPackages('runtimes', say), `node-linux-${arch}/bin/node`)
    return {
      name: `Node for ${arch} under ${emulator}`,
      command: [emulator, '-L', libraries, node],
      environment: {},
    }
  }
  if (arch !== process.arch)
    throw new Error(`no JavaScript runtime for ${arch} with musl is known that ${process.arch} runs`)
  return bunOnMusl(target, say)
}

/** Bun is the one runtime that npm has for musl; it wants a libstdc++, and Debian's is for glibc. */
async function bunOnMusl(target: Target, say: (line: string) => void): Promise<Runtime> {
  const loader = `/lib/ld-musl-${target.processor}.so.1`
  if (!existsSync(loader)) throw new Error(`${loader} is missing (Debian: musl)`)
  const bun = join(await lockedPackages('runtimes', say), '@oven/bun-linux-x64-musl/bin/bun')
  const libraries = join(ROOT, 'build/prebuild/musl')
  rmSync(libraries, { recursive: true, force: true })
  mkdirSync(libraries, { recursive: true })
  for (const name of ['libstdc++.so.6', 'libgcc_s.so.1']) {
    const file = execFileSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim()
    symlinkSync(file, join(libraries, name))
  }
  const { command, environment } = await compilerFor(target, say)
  const [program = '', , ...options] = command
  const source = join(ROOT, 'scripts/prebuild/musl.c')
  const flags = ['-shared', '-fPIC', '-o', join(libraries, 'ld-linux-x86-64.so.2')]
  await run(program, ['cc', ...options, ...flags, source], { env: environment })
  return { name: 'Bun on musl', command: [loader, bun], environment: { LD_LIBRARY_PATH: libraries } }
}

function programExists(name: string): boolean {
  return (process.env.PATH ?? '').split(':').some((directory) => existsSync(join(directory, name)))
}
