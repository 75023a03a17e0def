import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { cacheDirectory } from './cache.js'
import type { LabHost } from './hosts.js'
import type { Kernel } from './kernels.js'
import { findProgram } from './programs.js'

/** What the guest needs before it can reach the host's files; a kernel has each as a module or built in. */
const BOOT_MODULES = ['virtio_console', '9pnet_virtio', '9p', 'overlay']
/** Loaded from the initramfs too, because the host's modprobe takes a second over 9p. */
const VFIO_MODULES = ['vfio', 'vfio_virqfd', 'vfio_iommu_type1', 'vfio_pci']

const source = (file: string) => readFileSync(new URL(file, import.meta.url))

/** Builds, or finds in the cache, the initramfs that brings a kernel up to `root`, a directory of this machine. */
export function initramfsFor(kernel: Kernel, host: LabHost, root: string): string {
  const busybox = findBusybox(root)
  const boot = loadOrder(kernel.modules, [...host.modules, ...BOOT_MODULES])
  const vfio = loadOrder(kernel.modules, VFIO_MODULES).filter((file) => !boot.includes(file))
  const identity = createHash('sha256')
  for (const file of ['init.sh', 'session.sh', import.meta.url]) identity.update(source(file))
  for (const file of [busybox, ...boot, ...vfio]) identity.update(`${file} ${statSync(file).mtimeMs}\n`)
  identity.update(root)
  const image = join(cacheDirectory('initramfs'), `${identity.digest('hex').slice(0, 20)}.img`)
  if (existsSync(image)) return image

  const archive = new Cpio()
  for (const name of ['bin', 'dev', 'proc', 'sys', 'lower', 'layer', 'newroot', 'modules'])
    archive.directory(name)
  archive.console('dev/console')
  archive.file('bin/busybox', 0o755, readFileSync(busybox))
  archive.file('init', 0o755, source('init.sh'))
  archive.file('session.sh', 0o755, source('session.sh'))
  for (const file of [...boot, ...vfio]) archive.file(`modules/${moduleFile(file)}`, 0o644, decompress(file))
  archive.file('root', 0o644, Buffer.from(`${root}\n`))
  archive.file('modules/boot', 0o644, listing(boot))
  archive.file('modules/vfio', 0o644, listing(vfio))

  const scratch = `${image}.${process.pid}`
  writeFileSync(scratch, archive.end())
  renameSync(scratch, image)
  return image
}

const findBusybox = (root: string) =>
  root === '/' ? findProgram('busybox', 'busybox-static') : join(root, 'usr/bin/busybox')

const listing = (files: string[]) => Buffer.from(files.map((file) => `${moduleFile(file)}\n`).join(''))

const moduleFile = (file: string) => basename(file).replace(/\.ko\..*$/, '.ko')

/** The files of the modules named and of all they need, in the order to load them; built-in ones have no file. */
function loadOrder(directory: string | null, names: readonly string[]): string[] {
  if (directory === null) return []
  const needs = new Map<string, string[]>()
  for (const line of readFileSync(join(directory, 'modules.dep'), 'utf8').split('\n')) {
    const [file, rest] = line.split(':', 2)
    if (file === undefined || rest === undefined) continue
    const dependencies = rest.split(' ').filter((word) => word !== '')
    needs.set(moduleFile(file).slice(0, -'.ko'.length).replaceAll('-', '_'), [file, ...dependencies])
  }
  const order = names.flatMap((name) => (needs.get(name) ?? []).toReversed())
  return [...new Set(order)].map((file) => join(directory, file))
}

function decompress(file: string): Buffer {
  if (file.endsWith('.ko')) return readFileSync(file)
  if (file.endsWith('.gz')) return gunzipSync(readFileSync(file))
  const program = file.endsWith('.xz') ? 'xz' : 'zstd'
  return execFileSync(program, ['-dc', file], { maxBuffer: 1 << 28 })
}

/** A cpio archive in the kernel's `newc` format (Documentation/driver-api/early-userspace/buffer-format.rst). */
class Cpio {
  #parts: Buffer[] = []
  #count = 0

  directory(name: string): void {
    this.#entry(name, 0o040755, Buffer.alloc(0))
  }

  file(name: string, mode: number, body: Buffer): void {
    this.#entry(name, 0o100000 | mode, body)
  }

  console(name: string): void {
    this.#entry(name, 0o020600, Buffer.alloc(0), [5, 1])
  }

  end(): Buffer {
    this.#entry('TRAILER!!!', 0, Buffer.alloc(0))
    return Buffer.concat(this.#parts)
  }

  #entry(name: string, mode: number, body: Buffer, [major, minor] = [0, 0]): void {
    this.#count += 1
    const fields = [this.#count, mode, 0, 0, 1, 0, body.length, 0, 0, major, minor, name.length + 1, 0]
    const header = `070701${fields.map((field = 0) => field.toString(16).padStart(8, '0')).join('')}${name}\0`
    this.#parts.push(padded(Buffer.from(header)), padded(body))
  }
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)])
}
