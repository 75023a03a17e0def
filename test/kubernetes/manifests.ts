import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { parseAllDocuments } from 'yaml'
import { temporaryDirectory } from '../fixtures/host.js'

/** The root of the checkout, wherever this was compiled to. */
export const ROOT = dirname(createRequire(import.meta.url).resolve('vfio/package.json'))
export const DEPLOY = join(ROOT, 'kubernetes/deploy')

// Plain JavaScript, which is not compiled and stays where it is.
const { fetchTools, toolsDirectory } = (await import(
  join(ROOT, 'scripts/tools.mjs')
)) as typeof import('../../scripts/tools.mjs')

/** What helm and kubectl are there for. */
export const hasTools = process.arch === 'x64'

function tool(path: string): string {
  fetchTools('inherit')
  return join(toolsDirectory('kubernetes'), path)
}

/** An object of the Kubernetes API, as much of it as these tests look at. */
export interface Manifest {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: {
    readonly name: string
    readonly namespace?: string
    readonly labels?: Readonly<Record<string, string>>
  }
  readonly [more: string]: unknown
}

interface Run {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

function run(program: string, args: readonly string[]): Run {
  const home = temporaryDirectory()
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    cwd: home,
    encoding: 'utf8',
    // Nothing of who runs it takes part: neither a cluster nor plugins.
    env: { PATH: process.env.PATH, HOME: home, KUBECONFIG: join(home, 'none') },
  })
  if (error) throw error
  return { status, stdout, stderr }
}

export const helm = (...args: readonly string[]): Run => run(tool('helm/helm'), args)

const manifestsIn = (text: string): Manifest[] =>
  parseAllDocuments(text).flatMap((document) => (document as { toJS(): unknown }).toJS() as Manifest)

/** Rendered by kustomize. */
export function kustomized(directory: string): Manifest[] {
  const { status, stdout, stderr } = run(tool('kubectl/kubectl'), ['kustomize', directory])
  assert.equal(status, 0, stderr)
  return manifestsIn(stdout)
}

/** The values that a chart is rendered with, as a file. */
export function valuesFile(values: object): string {
  const path = join(temporaryDirectory(), 'values.json')
  writeFileSync(path, JSON.stringify(values))
  return path
}

/** Rendered by helm. */
export function charted(values: object): Manifest[] {
  const { status, stdout, stderr } = helm(
    ...['template', 'vfio-device-plugin', join(DEPLOY, 'chart'), '--namespace', 'vfio-device-plugin'],
    ...['--values', valuesFile(values)],
  )
  assert.equal(status, 0, stderr)
  return manifestsIn(stdout)
}

const moduleOf = ({ apiVersion, kind }: Manifest) => `kubernetes-models/${apiVersion}/${kind}`

/** What the schemas of the Kubernetes API say of these objects: a line for each mistake, unknown fields too. */
export async function mistakesIn(manifests: readonly Manifest[]): Promise<string[]> {
  const mistakes: string[] = []
  for (const manifest of manifests) {
    const { kind } = manifest
    const models = await import(tool(`node_modules/${moduleOf(manifest)}.js`))
    try {
      new models[kind](manifest).validate()
    } catch (error) {
      mistakes.push(`${kind} ${manifest.metadata.name}: ${(error as Error).message}`)
    }
  }
  return [...mistakes, ...unknownIn(manifests)]
}

/** The schemas let fields pass that they do not know, as the API server does not; types made of the same refuse them. */
function unknownIn(manifests: readonly Manifest[]): string[] {
  const directory = temporaryDirectory()
  symlinkSync(tool('node_modules'), join(directory, 'node_modules'))
  const file = join(directory, 'manifests.ts')
  writeFileSync(
    file,
    manifests
      .map((manifest, at) => {
        const type = `I${manifest.kind}`
        return `import type { ${type} as T${at} } from '${moduleOf(manifest)}'\nexport const m${at}: T${at} = ${JSON.stringify(manifest)}\n`
      })
      .join(''),
  )
  const tsc = join(ROOT, 'node_modules/.bin/tsc')
  const options = ['--strict', '--skipLibCheck', '--module', 'esnext', '--moduleResolution', 'bundler']
  const { status, stdout } = run(tsc, [
    ...['--noEmit', '--pretty', 'false', '--target', 'es2022', ...options, file],
  ])
  const lines = stdout.split('\n').filter((line) => line.includes('error TS'))
  assert.equal(status === 0, lines.length === 0, stdout)
  return lines
}
