import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFileSync,
  chmodSync,
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { createServer } from 'node:net'
import { constants } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import type { Binding } from '../../lib/native/binding.js'
import { decode, encode } from '../../lib/sysfs/bytes.js'
import { doesAnswer, EXTENDED_BODIES, readCapabilities, readHeader } from '../../lib/sysfs/config.js'
import * as plain from '../../lib/sysfs/plain.js'
import { buildConfig } from '../fixtures/config-space.js'
import { removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { sized } from '../fixtures/size.js'
import { skip } from '../fixtures/skip.js'
import { ROOT } from './fake.js'

const SEED = Number(process.env.VFIO_SEED ?? Date.now() % 2 ** 31)
const path = process.env.VFIO_ADDON || join(ROOT, 'build/Release/vfio.node')
const quick = createRequire(import.meta.url)(path) as Binding

type Batch = Readonly<Record<'files' | 'links' | 'lists' | 'nodes', readonly string[]>>

/** What one reader says of each name: bytes, sorted where they are a list, or a negated errno. */
function said(
  { readTree }: Pick<Binding, 'readTree'>,
  root: string,
  directories: readonly string[],
  { files, links, lists, nodes }: Batch,
  limit: number,
  given: string | readonly string[] = directories,
): Readonly<Record<string, string | number>> {
  const limits = files.map(() => limit)
  const { data, spans } = readTree(root, given, files, limits, links, lists, nodes, [], [])()
  const kinds = Object.entries({ files, links, lists, nodes }).flatMap(([kind, names]) =>
    names.map((name) => ({ kind, name })),
  )
  assert.equal(spans.length, 2 * kinds.length * directories.length)
  const answers = directories.flatMap((directory, row) =>
    kinds.map(({ kind, name }, column) => {
      const at = 2 * (row * kinds.length + column)
      const [start = 0, length = 0] = [spans[at], spans[at + 1]]
      const text = start < 0 ? start : Buffer.from(data).toString('latin1', start, start + length)
      // In what order a file system gives them is its own affair.
      const told = kind === 'lists' && typeof text === 'string' ? text.split('\0').sort().join('\0') : text
      return [`${kind} ${JSON.stringify(directory)} ${JSON.stringify(name)}`, told] as const
    }),
  )
  return Object.fromEntries(answers)
}

function agree(root: string, directories: readonly string[], batch: Batch, limit = 4096): void {
  const byNames = said(quick, root, directories, batch, limit)
  assert.deepEqual(said(plain, root, directories, batch, limit), byNames)
  // A text stands for one name at least.
  if (directories.length === 0) return
  const text = directories.join('\0')
  for (const reader of [plain, quick])
    assert.deepEqual(said(reader, root, directories, batch, limit, text), byNames)
}

const all = (names: readonly string[]): Batch => ({ files: names, links: names, lists: names, nodes: names })

/** Names as bytes: what is no UTF-8, what looks like a lone surrogate, what is hidden, what a shell would trip over. */
const ODD = [
  'plain',
  'grün',
  '\u{1f525}',
  decode(Uint8Array.of(0xff)),
  decode(Uint8Array.of(0x61, 0x80, 0xbf, 0x62)),
  decode(Uint8Array.of(0xed, 0xb2, 0x80)),
  decode(Uint8Array.of(0xc0, 0xaf)),
  decode(Uint8Array.of(0xf4, 0x90, 0x80, 0x80)),
  ' ',
  'a\nb',
  '.hidden',
  '\u001b[31m',
]

describe('the readers, with the addon and without', function () {
  this.timeout(sized(120_000, 600_000))
  let root = ''
  beforeEach(() => {
    root = temporaryDirectory()
  })
  afterEach(removeDirectories)

  const at = (...names: readonly string[]) => encode([root, ...names].join('/'))

  it('read the same bytes under every name that there can be', () => {
    for (const name of ODD) {
      writeFileSync(at(name), `in ${name}`)
      mkdirSync(at(`${name} directory`))
      writeFileSync(at(`${name} directory`, name), Uint8Array.of(0xff, 0, 0x0a))
      symlinkSync(encode(`../${name}`), at(`${name} link`))
    }
    const names = ODD.flatMap((name) => [
      name,
      `${name} directory`,
      `${name} link`,
      `${name} directory/${name}`,
    ])
    agree(root, ['.', ...ODD.map((name) => `${name} directory`)], all(names))
    const { 'lists "." "."': list } = said(quick, root, ['.'], all(['.']), 16)
    // All but the three that are hidden, and nothing else.
    assert.equal(String(list).split('\0').filter(Boolean).length, 3 * ODD.length - 3)
  })

  it('fail with the same errno, whatever is in the place of a file', async () => {
    writeFileSync(at('file'), 'text')
    mkdirSync(at('directory'))
    execFileSync('mkfifo', [join(root, 'fifo')])
    symlinkSync('loop', at('loop'))
    symlinkSync('nowhere', at('dangling'))
    symlinkSync('directory', at('to directory'))
    symlinkSync('/dev/null', at('null'))
    symlinkSync('/dev/zero', at('zero'))
    symlinkSync('/dev/full', at('full'))
    symlinkSync('x'.repeat(4000), at('long'))
    const server = createServer().listen(join(root, 'socket'))
    await once(server, 'listening')
    try {
      const names = [
        ...['file', 'directory', 'fifo', 'loop', 'dangling', 'to directory', 'null', 'zero', 'full'],
        ...['long', 'socket', 'nowhere', '.', 'directory/..', 'x'.repeat(255), 'x'.repeat(256)],
        ...['file/x', 'file/', 'directory/', 'directory/x', 'loop/x', 'fifo/x', 'null/x', 'to directory/.'],
      ]
      agree(root, names, all(names))
      agree(root, ['.', 'directory'], all(['', 'x'.repeat(256), 'x/'.repeat(3000)]))
      agree(root, ['nowhere', ''], all(['', 'x']))
      agree('', ['.', ''], all(['', '.', 'proc']))
      for (const other of ['/nowhere', `${root}/file`, `${root}/loop`, `${root}/`, '/', '.'])
        agree(other, ['.', 'file'], all(['.', 'x', 'file']))
    } finally {
      server.close()
    }
  })

  it('read as much of a file as was asked for, once', () => {
    writeFileSync(at('large'), Buffer.alloc(2 ** 20 + 5, 'abc'))
    writeFileSync(at('empty'), '')
    for (const limit of [1, 64, 4095, 4096, 4097, 2 ** 20]) agree(root, ['.'], all(['large', 'empty']), limit)
  })

  it('read the beginning of a file that grows meanwhile', async () => {
    const file = join(root, 'log')
    writeFileSync(file, '0123456789')
    const writer = spawn('sh', ['-c', `echo started; while :; do printf 0123456789 >> '${file}'; done`], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    try {
      await once(writer.stdout, 'data')
      for (const reader of [quick, plain])
        for (let round = 0; round < 200; round++) {
          const answer = said(reader, root, ['.'], { ...all([]), files: ['log'] }, 2 ** 20)
          assert.match(String(Object.values(answer)[0]), /^(0123456789)+\d*$/)
        }
    } finally {
      writer.kill()
      await once(writer, 'close')
    }
    appendFileSync(file, 'end')
    agree(root, ['.'], all(['log']), 2 ** 20)
  })

  it('tell devices by the same numbers, however large', function () {
    if (process.geteuid?.() !== 0) skip(this, 'only root makes device nodes')
    const numbers = ['1:3', '511:255', '511:256', '4095:1048575', '259:70000', '4094:0']
    for (const kind of ['c', 'b'])
      for (const number of numbers)
        execFileSync('mknod', [join(root, `${kind}${number}`), kind, ...number.split(':')])
    const names = ['c', 'b'].flatMap((kind) => numbers.map((number) => `${kind}${number}`))
    for (const reader of [quick, plain]) {
      const answers = said(reader, root, ['.'], { ...all([]), nodes: names }, 1)
      assert.deepEqual(Object.values(answers), names)
    }
  })

  it('are refused alike', function () {
    if (process.geteuid?.() !== 0) skip(this, 'only root can become a user who is refused')
    mkdirSync(at('closed'))
    mkdirSync(at('unlisted'))
    for (const directory of ['.', 'closed', 'unlisted']) writeFileSync(at(directory, 'file'), 'text')
    chmodSync(at('file'), 0o200)
    chmodSync(at('closed'), 0o600)
    chmodSync(at('unlisted'), 0o711)
    chmodSync(root, 0o755)
    process.seteuid?.(65534)
    try {
      agree(root, ['.', 'closed', 'unlisted', 'nowhere'], all(['file', '.', 'closed', 'unlisted', 'nowhere']))
      const { 'files "." "file"': refused } = said(plain, root, ['.'], all(['file']), 16)
      assert.equal(refused, -constants.errno.EACCES)
    } finally {
      process.seteuid?.(0)
    }
  })

  it('agree on any tree (property)', () => {
    // No link leads up: what is written through it has to stay in here.
    const name = fc.constantFrom('a', 'b', 'c', ...ODD)
    const entry = fc.oneof(
      fc.record({ kind: fc.constant('file' as const), content: fc.uint8Array({ maxLength: 100 }) }),
      fc.record({
        kind: fc.constant('link' as const),
        target: fc.array(fc.constantFrom('a', 'b', '.', 'c', 'x')),
      }),
      fc.record({ kind: fc.constant('directory' as const) }),
    )
    const tree = fc.array(fc.record({ directory: fc.option(name), name, entry }), { maxLength: 20 })
    fc.assert(
      fc.property(tree, fc.array(name), fc.integer({ min: 1, max: 200 }), (entries, asked, limit) => {
        root = temporaryDirectory()
        for (const { directory, name, entry } of entries) {
          const place = directory === null ? [name] : [directory, name]
          try {
            if (entry.kind === 'file') writeFileSync(at(...place), entry.content)
            else if (entry.kind === 'link') symlinkSync(entry.target.join('/') || '.', at(...place))
            else mkdirSync(at(...place))
          } catch {
            // Something is in the way: then that stays.
          }
        }
        const paths = asked.flatMap((one) => [one, ...asked.map((other) => `${one}/${other}`)])
        agree(root, ['.', ...asked], all([...paths, '.']), limit)
      }),
      { seed: SEED, numRuns: sized(100, 2000) },
    )
  })

  it('agree on what this machine has in sysfs and of itself', () => {
    const directory = '/sys/bus/pci/devices'
    const wanted = {
      files: ['modalias', 'config', 'resource', 'reset_method'],
      links: ['driver'],
      lists: ['.'],
    }
    agree(directory, readdirSync(directory), { ...wanted, nodes: ['reset'] })
    // Those of this process stay while it looks: what each is, /dev/null among them, a file that is removed, a pipe.
    const opened = [openSync('/dev/null', 'r'), openSync(at('gone'), 'w')]
    execFileSync('rm', [join(root, 'gone')])
    const pid = String(process.pid)
    try {
      const descriptors = [0, 1, 2, ...opened].map((one) => `fd/${one}`)
      agree('/proc', [pid], {
        files: ['cgroup'],
        links: ['ns/mnt', ...descriptors],
        lists: [],
        nodes: descriptors,
      })
      const answer = said(plain, '/proc', [pid], { ...all([]), nodes: [`fd/${opened[0]}`] }, 1)
      assert.deepEqual(Object.values(answer), ['c1:3'])
    } finally {
      for (const file of opened) closeSync(file)
    }
  })

  it('find lines by how far they are indented alike, wherever a text is cut', () => {
    const piece = fc.constantFrom(
      '\n',
      '\t',
      '#',
      'a',
      '\n\t',
      '\n\t\t',
      '\n8086  ',
      '\n#',
      '\0',
      'x'.repeat(500),
    )
    const texts = fc.array(piece, { maxLength: 40 }).map((pieces) => Buffer.from(pieces.join('')))
    fc.assert(
      fc.property(texts, fc.nat(600), fc.nat(2), (text, from, tabs) => {
        const found = quick.findHead(text, from, tabs)
        assert.equal(plain.findHead(text, from, tabs), found)
        if (found >= 0) assert.match(text.toString('latin1', found), /^\n\t{0,2}[^\t#]|^\n\t{1,2}#/)
      }),
      {
        numRuns: 2000,
        examples: [
          [Buffer.from('\n\tb\n'), 0, 0],
          [Buffer.from('\n\t'), 0, 1],
          [Buffer.alloc(0), 0, 2],
        ],
      },
    )
    assert.throws(() => quick.findHead(Buffer.alloc(1), 0, 3), { code: 'ERR_VFIO_BAD_ARGUMENT' })
  })

  it('take no more of a config space than is made of it, which is the same as of a whole one', () => {
    const bodies = Object.entries(EXTENDED_BODIES).flatMap(([id, size]) => [Number(id), size])
    const inParts = (config: Uint8Array): Uint8Array | number => {
      writeFileSync(at('config'), config)
      const { data, spans } = quick.readTree(
        ...([root, ['.'], ['config'], [4096], [], [], [], ['config'], bodies] as const),
      )()
      const [start = 0, length = 0] = spans
      return start < 0 ? start : data.subarray(start, start + length)
    }
    const made = (config: Uint8Array) => ({
      header: readHeader(config),
      answers: doesAnswer(config),
      capabilities: readCapabilities(config),
    })
    const header = {
      ...{ vendor: 0x8086, device: 0x10fb, subsystemVendor: 0x8086, subsystemDevice: 3, class: 0x020000 },
      ...{ revision: 1, headerType: 'normal' as const, multifunction: true },
      ...{ bus: 0, secondaryBus: 0, subordinateBus: 0 },
    }
    const secret = new Uint8Array(64).fill(0xee)
    const full = buildConfig(header, [
      { kind: 'pm' },
      { kind: 'pcie', flr: true },
      { kind: 'extended', id: 1, body: secret },
      { kind: 'acs' },
      { kind: 'cxl-port' },
      { kind: 'cxl-flex-bus', status: 5 },
      { kind: 'sriov', totalVfs: 63 },
    ])
    const parts = inParts(full)
    assert.ok(typeof parts !== 'number')
    assert.deepEqual(made(parts), made(full))
    assert.equal(made(parts).capabilities.sriov?.totalVfs, 63)
    assert.ok(full.includes(Buffer.from(secret)))
    assert.ok(!parts.includes(0xee), 'what nobody takes was read')
    // A kernel gives 64, 128, 256 or 4096 bytes.
    const lengths = [0, 15, 63, 64, 128, 255, 256, 260, 261, 270, 4095, 4096]
    const bytes = fc.record({
      // Dwords that link on, among others: ids that are read, and places in and out of the space.
      links: fc.array(
        fc.tuple(
          fc.oneof(
            fc.constant(0x100),
            fc.nat(0x3ff).map((place) => 4 * place),
          ),
          fc.constantFrom(0, 1, 0x0d, 0x10, 0x23, 0xffff),
          fc.oneof(fc.constantFrom(0, 0x100, 0xffc, 0xff0), fc.nat(0xfff)),
        ),
        { maxLength: 30 },
      ),
      noise: fc.uint8Array({ minLength: 0, maxLength: 64 }),
      length: fc.constantFrom(...lengths),
    })
    fc.assert(
      fc.property(bytes, ({ links, noise, length }) => {
        const config = Buffer.from(full)
        for (const [index, value] of noise.entries()) config[(index * 61) % 4096] = value
        for (const [place, id, next] of links)
          config.writeUInt32LE(((next << 20) | (1 << 16) | id) >>> 0, place)
        const given = config.subarray(0, length)
        const taken = inParts(given)
        assert.ok(typeof taken !== 'number')
        assert.deepEqual(made(taken), made(given))
      }),
      { seed: SEED, numRuns: sized(500, 20_000) },
    )
  })

  it('read all of a large host where no thread is to be had', function () {
    if (process.getuid?.() !== 0) skip(this, 'only root may take threads from another user')
    const many = Array.from({ length: 200 }, (_none, index) => `many-${index}`)
    for (const name of many) {
      mkdirSync(at(name), { recursive: true })
      writeFileSync(at(`${name}/modalias`), name)
    }
    chmodSync(root, 0o755)
    const program = `
      import { createRequire } from 'node:module'
      import { execFileSync } from 'node:child_process'
      const { readTree } = createRequire(import.meta.url)(${JSON.stringify(path)})
      execFileSync('prlimit', ['--pid', String(process.pid), '--nproc=1:1'])
      process.setuid(65_533)
      const { data } = readTree(${JSON.stringify(root)}, ${JSON.stringify(many)}, ['modalias'], [64], [], [], [], [], [])()
      process.stdout.write(Buffer.from(data).toString())`
    const text = execFileSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' })
    for (const name of many) assert(text.includes(name), text)
  })
})

describe('what may wait for ever, with the addon and without', function () {
  this.timeout(120_000)
  afterEach(removeDirectories)

  /** Far more than a busy machine needs for a file that answers, in milliseconds. */
  const PATIENCE = 4000
  const answers = (reader: Pick<Binding, 'readWaiting'>, paths: readonly string[], patience: number) => {
    const { data, spans } = reader.readWaiting(paths, patience)()
    assert.equal(spans.length, 2 * paths.length)
    return paths.map((_path, row) => {
      const [start = 0, length = 0] = spans.subarray(2 * row)
      return start < 0 ? start : Buffer.from(data.subarray(start, start + length)).toString('latin1')
    })
  }

  it('is given up after a while, and what is behind it read all the same, up to the third', () => {
    const root = temporaryDirectory()
    const at = (name: string) => `${root}/${name}`
    const odd = decode(Uint8Array.of(0x66, 0xff))
    writeFileSync(encode(at(odd)), 'odd')
    writeFileSync(at('large'), 'x'.repeat(5000))
    mkdirSync(at('directory'))
    symlinkSync('loop', at('loop'))
    execFileSync('mkfifo', ['1', '2'].map(at))
    const names = [odd, '1', 'large', 'directory', '2', 'nowhere', 'loop']
    const { ETIMEDOUT, EISDIR, ENOENT, ELOOP } = constants.errno
    const expected = ['odd', -ETIMEDOUT, 'x'.repeat(4096), -EISDIR, -ETIMEDOUT, -ENOENT, -ELOOP]
    for (const reader of [quick, plain]) assert.deepEqual(answers(reader, names.map(at), PATIENCE), expected)
    // After three of them nobody waits for a fourth.
    for (const reader of [quick, plain])
      assert.deepEqual(answers(reader, ['1', '2', '1', odd, '2'].map(at), 1).slice(4), [-ETIMEDOUT])
    assert.deepEqual(answers(plain, [], 100), [])
  })

  it('is read where it is an attribute of the kernel', () => {
    const paths = readdirSync('/sys/bus/pci/devices').flatMap((address) =>
      ['driver_override', 'nowhere', 'class'].map((name) => `/sys/bus/pci/devices/${address}/${name}`),
    )
    assert.deepEqual(answers(plain, paths, PATIENCE), answers(quick, paths, PATIENCE))
  })

  it('leaves no process behind that does not wait', async () => {
    const root = temporaryDirectory()
    execFileSync('mkfifo', [`${root}/fifo`])
    const readers = () =>
      readdirSync('/proc').filter((pid) => {
        try {
          return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/comm`, 'utf8') === 'vfio-read\n'
        } catch {
          return false
        }
      })
    // Those of other programs are none of ours.
    const before = new Set(readers())
    plain.readWaiting([`${root}/fifo`], 100)()
    // It was killed, and its end is another's affair.
    while (readers().some((pid) => !before.has(pid))) await new Promise(setImmediate)
  })
})
