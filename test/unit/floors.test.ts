import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize, relative } from 'node:path'
import { ROOT } from './support.js'

const LIB = join(ROOT, 'lib')

/** The rooms of each floor in their order: a room imports itself, and what stands before it here. */
const FLOORS: Readonly<Record<string, readonly string[]>> = {
  ground: [
    'growing.ts',
    'hints.ts',
    'errors.ts',
    'text.ts',
    'columns.ts',
    'nearest.ts',
    'builtin.ts',
    'queue.ts',
    'native',
  ],
  records: ['records.ts'],
  LOOK: ['sysfs'],
  JUDGE: ['assess'],
  OPEN: ['vfio'],
  actions: ['actions'],
  CHANGE: ['change', 'grant', 'vfs', 'mdev', 'assign', 'persist', 'features'],
  'HAND ON': ['export'],
  'FILES OF OTHERS': ['cdi'],
  LAUNCH: ['launch'],
  outside: ['index.ts', 'cli'],
}

/** What a floor may not import although it stands before it. */
const APART: Readonly<Record<string, readonly string[]>> = {
  LOOK: ['records'],
  JUDGE: ['ground: native', 'records'],
  OPEN: ['records'],
  CHANGE: ['OPEN'],
  'HAND ON': ['records', 'OPEN', 'actions', 'CHANGE'],
  'FILES OF OTHERS': ['OPEN', 'actions'],
  LAUNCH: ['records', 'OPEN', 'actions', 'FILES OF OTHERS'],
}

const ROOMS = Object.values(FLOORS).flat()
const floorOf = (room: string) => Object.keys(FLOORS).find((floor) => FLOORS[floor]?.includes(room)) ?? ''
const roomOf = (file: string) => file.split('/')[0] ?? ''

interface Import {
  readonly from: string
  readonly to: string
}

function importsOf(file: string): Import[] {
  const text = readFileSync(join(LIB, file), 'utf8')
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)\.js'/g)].map(([, path = '']) => ({
    from: file,
    to: `${normalize(join(dirname(file), path))}.ts`,
  }))
}

function isAllowed({ from, to }: Import): boolean {
  const [room, other] = [roomOf(from), roomOf(to)]
  if (room === other) return true
  const [floor, above] = [floorOf(room), floorOf(other)]
  const apart = APART[floor] ?? []
  if (apart.includes(above) || apart.includes(`${above}: ${other}`)) return false
  return ROOMS.indexOf(other) < ROOMS.indexOf(room)
}

describe('floors', () => {
  const files = readdirSync(LIB, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'))
  const imports = files.flatMap(importsOf)

  it('have a place for every file of lib/', () => {
    assert.ok(imports.length > 300, `${imports.length} imports were found`)
    const homeless = files.filter((file) => !ROOMS.includes(roomOf(file)))
    assert.deepEqual(homeless, [])
    const unknown = imports.filter(({ to }) => !files.includes(to))
    assert.deepEqual(unknown, [])
  })

  it('import nothing of Node that takes long to load', () => {
    const slow =
      /^import (?!type ).* from 'node:(?:child_process|crypto|http|https|net|tls|v8|worker_threads)'/m
    assert.deepEqual(
      files.filter((file) => slow.test(readFileSync(join(LIB, file), 'utf8'))),
      [],
    )
  })

  it('import only what stands before them', () => {
    const wrong = imports
      .filter((one) => !isAllowed(one))
      .map(({ from, to }) => `${from} imports ${relative('.', to)}`)
    assert.deepEqual(wrong, [])
  })
})
