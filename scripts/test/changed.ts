import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { build } from 'esbuild'
import { ROOT, type Step, sourceOf, testsIn } from './steps.js'

const git = (...args: readonly string[]) =>
  execFileSync('git', args, { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })

/** The branch that all work comes back to, as this clone knows it. */
function mainBranch(): string {
  for (const name of ['origin/HEAD', 'origin/main', 'main']) {
    try {
      return git('rev-parse', '--verify', '--quiet', `${name}^{commit}`).trim()
    } catch {
      // The next one may be there.
    }
  }
  throw new Error('--changed: this clone has no branch main to compare with')
}

/** What differs from where this branch left main, committed or not, from the root. */
export function changedFiles(): string[] {
  const base = git('merge-base', 'HEAD', mainBranch()).trim()
  const listed = [
    git('diff', '--name-only', '--no-renames', '-z', base),
    git('ls-files', '--others', '--exclude-standard', '-z'),
  ]
  return [...new Set(listed.flatMap((names) => names.split('\0')))].filter((name) => name !== '').sort()
}

/** What no test runs, and only types are checked of. */
const isTool = (file: string) => /^scripts\/(bench|compare)\/|^scripts\/demo/.test(file)
/** What no test runs; Biome reads it, and the package carries some of it. */
const isText = (file: string) =>
  file.endsWith('.md') || file === 'LICENSE' || file.startsWith('.github/') || file.startsWith('docs/')
const isCode = (file: string) => /^(lib|kubernetes\/src|test|examples|scripts\/docs)\/.*\.ts$/.test(file)

/**
 * The steps that can see that these files changed, those in a guest with the tests alone that can: all of them where
 * that is not known.
 */
export async function touchedSteps(files: readonly string[], among: readonly Step[]): Promise<Step[]> {
  if (files.length === 0) return []
  if (!files.every((file) => isText(file) || isTool(file) || isCode(file))) return [...among]
  const code = files.filter(isCode)
  const touched = new Set<Step>()
  for (const step of among) {
    if (!('directory' in step.work)) {
      // A build of the addon is needed by who needs it, and by nobody else.
      if (step.name === 'lint' || (!files.every(isText) && step.name.startsWith('types'))) touched.add(step)
    } else if (['docs', 'package'].includes(step.work.directory)) {
      const own = `test/${step.work.directory}/`
      if (files.some((file) => isText(file) || !file.startsWith('test/') || file.startsWith(own)))
        touched.add(step)
    } else if (code.length > 0) {
      const { work } = step
      const tests: string[] = []
      for (const name of testsIn(work)) {
        const seen = await filesBehind(sourceOf(work, name))
        // A file that is gone may have been part of anything.
        if (code.some((file) => seen.has(file) || !existsSync(join(ROOT, file)))) tests.push(name)
      }
      if (tests.length > 0) touched.add(work.guest ? { ...step, work: { ...work, files: tests } } : step)
    }
  }
  return [...touched]
}

const known = new Map<string, Promise<ReadonlySet<string>>>()

/** The sources whose code a test runs, in its own process or in one that it starts. */
async function filesBehind(test: string): Promise<ReadonlySet<string>> {
  const seen = new Set<string>()
  // The test, and what it starts without an import.
  let entries = [test]
  while (entries.length > 0) {
    const found = new Set<string>()
    for (const entry of entries) {
      const inside = known.get(entry) ?? bundledInto(entry)
      known.set(entry, inside)
      for (const file of await inside) found.add(file)
    }
    const before = new Set(seen)
    for (const file of found) seen.add(file)
    entries = [...found].filter((file) => !before.has(file)).flatMap(startedBy)
    entries = [...new Set(entries)].filter((file) => !before.has(file))
  }
  return seen
}

/** The sources that leave code in a bundle of this one; of the library only what is used of it. */
async function bundledInto(entry: string): Promise<ReadonlySet<string>> {
  const { metafile } = await build({
    absWorkingDir: ROOT,
    entryPoints: [entry],
    bundle: true,
    write: false,
    metafile: true,
    platform: 'node',
    format: 'esm',
    packages: 'external',
    alias: { vfio: './lib/index.ts' },
    outdir: 'build',
    logLevel: 'silent',
  })
  const inputs = Object.values(metafile.outputs).flatMap(({ inputs }) => Object.entries(inputs))
  return new Set([
    entry,
    ...inputs.filter(([, { bytesInOutput }]) => bytesInOutput > 0).map(([file]) => file),
  ])
}

/** What a source of the tests runs in another process: programs beside it, the command line, a script with the library. */
function startedBy(file: string): string[] {
  if (!file.startsWith('test/')) return []
  const text = readFileSync(join(ROOT, file), 'utf8')
  // The last part of a path may be a variable, which stands for all that there are.
  const programs = [...text.matchAll(/new URL\(\s*[`'"]([^`'"]*)\/([^`'"/]*)\.js[`'"]/g)].flatMap(
    ([, path = '', name = '']) => {
      const directory = join(dirname(file), path)
      if (!name.includes('$')) return [join(directory, `${name}.ts`)]
      return readdirSync(join(ROOT, directory))
        .filter((entry) => entry.endsWith('.ts'))
        .map((entry) => join(directory, entry))
    },
  )
  const elsewhere = text.replace(/^(import .*|\}) from 'vfio'$/gm, '')
  return [
    ...programs.filter((path) => existsSync(join(ROOT, path))),
    ...(/dist\/|cli\/main/.test(text) ? ['lib/cli/main.ts'] : []),
    ...(/'vfio'|dist\//.test(elsewhere) ? ['lib/index.ts'] : []),
  ]
}
