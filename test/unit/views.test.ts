import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, readlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { assessUses, Host } from 'vfio'
import { type DeviceDescription, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { skip } from '../fixtures/skip.js'
import { UsedHost } from '../fixtures/uses.js'
import { ROOT } from './support.js'

const A = '0000:01:00.0'

/** /dev/full, by which a device of these hosts goes: every machine has it, and nobody has it open. */
const NUMBER = '1:7'

/** A host with the process table of this machine, on which /dev/full is a graphics card. */
function graphics(device: Partial<DeviceDescription> = {}): UsedHost {
  const host = new UsedHost({ devices: [{ address: A, group: 1, driver: 'some', ...device }] })
  host.node(NUMBER, 'dri/card0', host.inside(A, 'drm/card0'))
  return host
}

const PROGRAM = `
import { assessUses, Host } from 'vfio'
const [sysfs, address] = process.argv.slice(1)
const seen = new Host({ sysfs, proc: '/proc' }).snapshot()
console.log(JSON.stringify(assessUses(seen, address).map(({ severity, kind, what }) => severity + ' ' + kind + ': ' + what)))
`

/** The uses of the device as a program sees them that is started by other commands, which give it its view. */
function usesSeenBy(view: readonly string[], host: UsedHost): string[] {
  const program = [process.execPath, '--input-type=module', '-e', PROGRAM, host.tree.path('sys'), A]
  const [command = '', ...rest] = [...view, ...program]
  return JSON.parse(execFileSync(command, rest, { cwd: ROOT, encoding: 'utf8' })) as string[]
}

/** A process that does what a shell script says and then waits, with its output open until the test ends it. */
async function start(script: string, view: readonly string[] = []): Promise<ChildProcess> {
  const [command = '', ...rest] = [...view, 'sh', '-c', `${script}; echo ready; exec sleep 600`]
  const child = spawn(command, rest, { stdio: ['ignore', 'pipe', 'inherit'] })
  const [text] = await once(child.stdout ?? child, 'data')
  assert.equal(String(text), 'ready\n')
  return child
}

/** Without what could not be seen: in a container even root may not look into every process. */
const seenOf = (uses: readonly string[]) => uses.filter((use) => !use.startsWith('blocks other: '))
const seesAll = () => {
  try {
    readlinkSync('/proc/1/fd/0')
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT'
  }
}

const HELD = /^blocks display: \/dev\/dri\/card0 is open in \S+ \(pid \d+\)$/
const isRoot = process.geteuid?.() === 0
/** Linux has namespaces of every kind only for those who may make them. */
const mayUnshare = (flags: readonly string[]) =>
  isRoot && spawnSync('unshare', [...flags, 'true'], { stdio: 'ignore' }).status === 0

describe('what a process has open', function () {
  this.timeout(60_000)
  const started: ChildProcess[] = []
  before(function () {
    if (!isRoot) skip(this, 'only root sees what all processes have open')
  })
  afterEach(() => {
    for (const child of started.splice(0)) child.kill('SIGKILL')
  })
  after(removeDirectories)

  it('is known by the number of the device, whatever its path says', async () => {
    const host = graphics()
    assert.deepEqual(seenOf(usesSeenBy([], host)), [])
    const node = join(temporaryDirectory(), 'innocent')
    execFileSync('mknod', [node, 'c', ...NUMBER.split(':')])
    started.push(await start(`exec 7<${node}; rm ${node}`))
    assert.match(seenOf(usesSeenBy([], host)).join(), HELD)
  })

  it('is no device where a plain file has the name of one', async () => {
    const host = graphics()
    const directory = join(temporaryDirectory(), 'dev/dri')
    mkdirSync(directory, { recursive: true })
    const file = join(directory, 'card0')
    writeFileSync(file, '')
    chmodSync(file, 0o644)
    started.push(await start(`exec 7<${file}`))
    assert.deepEqual(seenOf(usesSeenBy([], host)), [])
  })

  it('may be that of a process whose name tries to be more than one', async () => {
    const host = graphics()
    // A name that ends its field early, claims to be a thread of the kernel, and turns the text of a terminal round.
    const script = 'printf "x) S 1\\n\\342\\200\\256z" > /proc/self/comm; exec 7</dev/full; read forever'
    const child = spawn('sh', ['-c', `echo ready; ${script}`], { stdio: ['pipe', 'pipe', 'inherit'] })
    started.push(child)
    await once(child.stdout, 'data')
    let uses: string[] = []
    while (uses.length === 0) uses = seenOf(usesSeenBy([], host))
    assert.match(uses.join(), /^blocks display: \/dev\/dri\/card0 is open in x\) S 1.*z \(pid \d+\)$/)
    assert.doesNotMatch(uses.join(), /[\p{Cc}\p{Cf}]/u)
  })

  it('is seen where its path is too long to be told', async () => {
    const host = graphics()
    const [first, second] = [temporaryDirectory(), temporaryDirectory()]
    const name = 'n'.repeat(200)
    const deep = (top: string) => `cd ${top} && for i in $(seq 15); do mkdir ${name} && cd ${name}; done`
    // Neither path is too long for the shell, one in the other is.
    const script = `${deep(first)}; mknod node c ${NUMBER.replace(':', ' ')}; exec 7<node; ${deep(second)}; mv ${first} .`
    started.push(await start(script))
    assert.match(seenOf(usesSeenBy([], host)).join(), HELD)
    execFileSync('rm', ['-rf', first, second])
  })

  it('is seen where its first thread has ended', async () => {
    const host = graphics()
    const source = join(temporaryDirectory(), 'threads.c')
    writeFileSync(
      source,
      `#include <fcntl.h>
       #include <pthread.h>
       #include <unistd.h>
       static void *rest(void *none) {
         if (open("/dev/full", O_RDONLY) < 0 || write(1, "ready\\n", 6) != 6) _exit(1);
         for (;;) pause();
         return none;
       }
       int main(void) {
         pthread_t thread;
         if (pthread_create(&thread, 0, rest, 0)) return 1;
         pthread_exit(0);
       }`,
    )
    const program = source.replace('.c', '')
    execFileSync('cc', ['-pthread', '-o', program, source])
    const child = spawn(program, { stdio: ['ignore', 'pipe', 'inherit'] })
    started.push(child)
    await once(child.stdout, 'data')
    assert.match(seenOf(usesSeenBy([], host)).join(), HELD)
  })

  it('is seen where a thread has files of its own', async () => {
    const host = graphics()
    const source = join(temporaryDirectory(), 'unshared.c')
    writeFileSync(
      source,
      `#define _GNU_SOURCE
       #include <fcntl.h>
       #include <pthread.h>
       #include <sched.h>
       #include <unistd.h>
       static void *rest(void *none) {
         if (unshare(CLONE_FILES) || open("/dev/full", O_RDONLY) < 0 || write(1, "ready\\n", 6) != 6) _exit(1);
         for (;;) pause();
         return none;
       }
       int main(void) {
         pthread_t thread;
         if (pthread_create(&thread, 0, rest, 0)) return 1;
         for (;;) pause();
       }`,
    )
    const program = source.replace('.c', '')
    execFileSync('cc', ['-pthread', '-o', program, source])
    const child = spawn(program, { stdio: ['ignore', 'pipe', 'inherit'] })
    started.push(child)
    await once(child.stdout, 'data')
    assert.match(seenOf(usesSeenBy([], host)).join(), HELD)
  })

  it('is seen in another mount namespace, with a /dev of its own', async function () {
    if (!mayUnshare(['-m'])) skip(this, 'no mount namespace can be made here')
    const host = graphics()
    const view = ['unshare', '-m']
    const script = `mount -t tmpfs none /mnt && mknod /mnt/x c ${NUMBER.replace(':', ' ')} && exec 7</mnt/x`
    started.push(await start(script, view))
    assert.match(seenOf(usesSeenBy([], host)).join(), HELD)
  })
})

describe('a view that hides something', function () {
  this.timeout(60_000)
  after(removeDirectories)

  const unseen = (uses: readonly string[]) => uses.filter((use) => use.startsWith('blocks other: '))

  for (const [what, flags, expected] of [
    ['a PID namespace of its own', ['-p', '-f', '--mount-proc'], /PID namespace of its own/],
    ['a user namespace of its own', ['-U', '-r'], /could not be seen: root sees it/],
  ] as const) {
    it(`says that ${what} does`, function () {
      if (!mayUnshare(flags)) skip(this, `${what} cannot be made here`)
      assert.match(unseen(usesSeenBy(['unshare', ...flags], graphics())).join(), expected)
    })
  }

  for (const level of ['1', '2']) {
    it(`says that a process table with hidepid=${level} does, to who is not root`, function () {
      if (!mayUnshare(['-m'])) skip(this, 'no mount namespace can be made here')
      const host = graphics()
      chmodSync(host.tree.root, 0o755)
      const view = `mount -t proc -o hidepid=${level} proc /proc; exec setpriv --reuid 65534 --regid 65534 --clear-groups "$0" "$@"`
      assert.match(
        unseen(usesSeenBy(['unshare', '-m', 'sh', '-c', view], host)).join(),
        /could not be seen: root sees it/,
      )
    })
  }

  it('says that a directory without a process table does', function () {
    if (!mayUnshare(['-m'])) skip(this, 'no mount namespace can be made here')
    const host = graphics()
    host.disk('sda', A, 8)
    const view = ['unshare', '-m', 'sh', '-c', 'mount -t tmpfs none /proc; exec "$0" "$@"']
    const run = () => usesSeenBy(view, host)
    assert.match(
      unseen(run()).join(),
      /mounted is not known.*swapped to is not known.*takes \/proc with the processes/,
    )
  })

  it('is no hidden view where all is in sight', function () {
    if (!isRoot) skip(this, 'only root sees what all processes have open')
    if (!seesAll()) skip(this, 'not even root sees all processes here')
    assert.deepEqual(usesSeenBy([], graphics()), [])
  })

  it('says that an interface in another network namespace is out of sight', () => {
    const host = new UsedHost({ devices: [{ address: A, group: 1, driver: 'virtio-pci', class: 0x020000 }] })
    assert.deepEqual(host.uses(A), [])
    // The kernel keeps the directory of a device's interfaces, and shows none that is elsewhere.
    host.tree.linkTo('sys/bus/virtio/devices/virtio0', host.inside(A, 'virtio0'))
    host.tree.directory(host.inside(A, 'virtio0/net'))
    assert.match(
      host.uses(A).join(),
      /^blocks other: it has a network interface in another network namespace/,
    )
  })

  it('says that nothing is known where the trees were not given', () => {
    const host = new UsedHost({ devices: [{ address: A, group: 1, driver: 'nvme' }] })
    host.disk('nvme0n1', A, 259)
    const uses = assessUses(new Host({ sysfs: host.tree.path('sys') }).snapshot(), A)
    assert.match(
      uses.map(({ kind, severity, unknown, what }) => `${severity} ${kind} ${unknown} ${what}`).join('\n'),
      /^blocks other true whether \/dev\/nvme0n1 is mounted is not known.*\n.*is swapped to is not known.*\n.*open could not be seen/,
    )
  })

  it('reads the older mount table where there is no other', () => {
    const host = new UsedHost({ devices: [{ address: A, group: 1, driver: 'ahci' }] })
    host.disk('sda', A, 8, 2)
    host.tree.remove('proc/self/mountinfo')
    host.tree.file('proc/mounts', '/dev/sdap2 / ext4 rw,relatime 0 0\nproc /proc proc rw 0 0\n')
    assert.deepEqual(host.uses(A), ['blocks mount: sdap2 is mounted at /'])
  })
})

describe('names in bytes', () => {
  after(removeDirectories)

  const share = (tag: string | Uint8Array, source: string | Uint8Array) => {
    const host = new UsedHost({ devices: [{ address: A, group: 1, driver: 'virtio-pci' }] })
    host.tree.linkTo('sys/bus/virtio/devices/virtio0', host.inside(A, 'virtio0'))
    host.tree.file(host.inside(A, 'virtio0/mount_tag'), tag)
    host.tree.linkTo(host.inside(A, 'virtio0/driver'), 'sys/bus/virtio/drivers/9pnet_virtio')
    const line = Buffer.concat([
      Buffer.from('36 25 0:50 / /a\\040\\303\\245 rw - 9p '),
      Buffer.from(source),
      Buffer.from(' rw\n'),
    ])
    host.tree.file('proc/self/mountinfo', line)
    return host.uses(A)
  }

  for (const [what, tag, source] of [
    ['ASCII', 'plain', 'plain'],
    ['UTF-8', 'dåta', 'dåta'],
    ['UTF-8 written in octal', 'dåta x', 'd\\303\\245ta\\040x'],
    ['a byte that is no UTF-8', Uint8Array.of(0x64, 0xe5, 0x74), Uint8Array.of(0x64, 0xe5, 0x74)],
    ['a byte that is no UTF-8, in octal', Uint8Array.of(0xff, 0xc3, 0xa5), '\\377\\303\\245'],
    ['the character for what is none', '\ufffd', '\ufffd'],
  ] as const) {
    it(`are equal where both are ${what}`, () => {
      assert.match(share(tag, source).join(), /^blocks mount: the 9p share ".*" is mounted at \/a å$/)
    })
  }

  it('differ where their bytes do, though none is UTF-8', () => {
    assert.deepEqual(share(Uint8Array.of(0xe5), Uint8Array.of(0xe6)), [])
  })

  it('of interfaces lead back to their files', () => {
    const host = new UsedHost({ devices: [{ address: A, group: 1, driver: 'e1000e', class: 0x020000 }] })
    const name = Buffer.from([0x65, 0xff, 0x30])
    const directory = host.tree.path(host.inside(A, 'net'))
    mkdirSync(Buffer.concat([Buffer.from(`${directory}/`), name]), { recursive: true })
    writeFileSync(Buffer.concat([Buffer.from(`${directory}/`), name, Buffer.from('/flags')]), '0x1003\n')
    mkdirSync(host.tree.path('sys/class/net'), { recursive: true })
    const link = 'name=$(printf "e\\3770"); ln -s "$1/$name" "$2/$name"'
    execFileSync('sh', ['-c', link, 'sh', directory, host.tree.path('sys/class/net')])
    assert.match(host.uses(A).join(), /^warns network: e.*0 is up, without an address$/)
  })
})
