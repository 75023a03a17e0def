import assert from 'node:assert/strict'
import { cpSync, existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'
import { manifest, PATIENCE, ROOT, requireTool, run, scratchDirectory, succeed, tool } from './support.js'

/** GitHub's own parser of workflows, as far as it is used here. */
interface Parser {
  readonly NoOperationTraceWriter: new () => object
  parseWorkflow(
    file: { readonly name: string; readonly content: string },
    trace: object,
  ): { readonly context: { readonly errors: { getErrors(): readonly Error[] } }; readonly value: object }
  convertWorkflowTemplate(context: object, value: object): Promise<{ readonly errors?: readonly object[] }>
}

interface Step {
  readonly name?: string
  readonly uses?: string
  readonly run?: string
}

interface Job {
  readonly needs?: string
  readonly permissions?: Readonly<Record<string, string>>
  readonly steps: readonly Step[]
}

interface Workflow {
  readonly permissions: Readonly<Record<string, string>>
  readonly jobs: Readonly<Record<string, Job>>
}

const WORKFLOWS = '.github/workflows'
const FORMS = '.github/ISSUE_TEMPLATE'
const read = (path: string) => readFileSync(join(ROOT, path), 'utf8')
const yaml = <T>(path: string) => requireTool<{ parse(text: string): T }>('yaml').parse(read(path))

/** It reads its schema in a way that bundlers alone understand. */
async function workflowParser(): Promise<Parser> {
  const outfile = join(scratchDirectory('workflow-parser'), 'parser.mjs')
  await build({
    entryPoints: [tool('@actions/workflow-parser/dist/index.js')],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    banner: {
      js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)",
    },
  })
  return (await import(outfile)) as Parser
}

describe('the workflows', function () {
  this.timeout(PATIENCE)

  const names = readdirSync(join(ROOT, WORKFLOWS))
  const jobs = () =>
    names.flatMap((name) => {
      const workflow = yaml<Workflow>(`${WORKFLOWS}/${name}`)
      return Object.entries(workflow.jobs).map(([job, value]) => ({
        name: `${name} ${job}`,
        workflow,
        job: value,
      }))
    })

  it('are workflows', async () => {
    const { convertWorkflowTemplate, NoOperationTraceWriter, parseWorkflow } = await workflowParser()
    for (const name of names) {
      const file = { name, content: read(`${WORKFLOWS}/${name}`) }
      const { context, value } = parseWorkflow(file, new NoOperationTraceWriter())
      assert.deepEqual(context.errors.getErrors(), [])
      const { errors = [] } = await convertWorkflowTemplate(context, value)
      assert.deepEqual(errors, [])
    }
  })

  it('pin what they use by its commit', () => {
    const used = names.flatMap((name) => read(`${WORKFLOWS}/${name}`).match(/\buses: .*$/gm) ?? [])
    assert(used.length > 0)
    for (const line of used) assert.match(line, /^uses: [\w.-]+\/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/)
  })

  it('call what there is', () => {
    for (const { job } of jobs()) {
      for (const { run: script = '' } of job.steps) {
        for (const [, name = ''] of script.matchAll(/npm run (\S+)/g)) assert(name in manifest.scripts, name)
        for (const [path] of script.matchAll(/(?<= |^)\.\w*\/\S+/g)) {
          if (!path.includes('*')) assert(existsSync(join(ROOT, path)), path)
        }
      }
    }
  })

  it('let nothing write but the one job that publishes, which runs no code of others', () => {
    const writers = jobs().filter(({ workflow, job }) =>
      Object.values({ ...workflow.permissions, ...job.permissions }).includes('write'),
    )
    assert.deepEqual(
      writers.map(({ name }) => name),
      ['release.yml publish'],
    )
    const [{ job } = { job: undefined }] = writers
    assert.deepEqual(job?.permissions, { 'id-token': 'write' })
    assert.equal(job?.needs, 'package')
    assert.deepEqual(
      job?.steps.flatMap((step) => step.run ?? []),
      [
        'for package in ./vfio-[0-9]*.tgz ./vfio-device-plugin-*.tgz; do npm publish --provenance --access public "$package"; done',
      ],
    )
  })

  it('test before they pack', () => {
    const steps = yaml<Workflow>(`${WORKFLOWS}/release.yml`).jobs.package?.steps ?? []
    const scripts = steps.flatMap((step) => step.run ?? [])
    const at = (script: string) => scripts.indexOf(script)
    assert(at('.ci/run') >= 0)
    for (const pack of ['npm pack', 'npm pack --workspace vfio-device-plugin'])
      assert(at('.ci/run') < at(pack), pack)
  })

  it('publish a package that names the repository, and the version of the tag', () => {
    const steps = yaml<Workflow>(`${WORKFLOWS}/release.yml`).jobs.package?.steps ?? []
    const script = (name: string) => steps.find((step) => step.name === name)?.run ?? assert.fail(name)
    const directory = scratchDirectory('released')
    for (const path of ['package.json', 'kubernetes/package.json'])
      cpSync(join(ROOT, path), join(directory, path), { recursive: true })
    const repository = { GITHUB_SERVER_URL: 'https://github.com', GITHUB_REPOSITORY: 'someone/vfio' }
    succeed(directory, ['sh', '-ec', script('Where it comes from')], repository)
    const made = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8')) as Record<string, object>
    assert.deepEqual(made.repository, { type: 'git', url: 'git+https://github.com/someone/vfio.git' })
    assert.deepEqual(made.bugs, { url: 'https://github.com/someone/vfio/issues' })
    assert.equal(made.homepage, 'https://github.com/someone/vfio#readme')
    const plugin = JSON.parse(readFileSync(join(directory, 'kubernetes/package.json'), 'utf8'))
    assert.deepEqual(plugin.repository, { ...made.repository, directory: 'kubernetes' })
    const tagged = (tag: string) =>
      run(directory, ['sh', '-ec', script('The tag is the version')], { GITHUB_REF_NAME: tag }).status
    assert.equal(tagged(`v${manifest.version}`), 0)
    assert.equal(tagged('v99.0.0'), 1)
  })
})

interface Form {
  readonly name: string
  readonly description: string
  readonly body: readonly {
    readonly type: string
    readonly id?: string
    readonly attributes: Readonly<Record<string, unknown>>
    readonly validations?: { readonly required?: boolean }
  }[]
}

/** What GitHub's syntax for issue forms lets an element of each kind have, what it must have first. */
const ELEMENTS: Readonly<Record<string, readonly string[]>> = {
  markdown: ['value'],
  textarea: ['label', 'description', 'placeholder', 'value', 'render'],
  input: ['label', 'description', 'placeholder', 'value'],
  dropdown: ['label', 'options', 'description', 'multiple', 'default'],
  checkboxes: ['label', 'options', 'description'],
}

describe('the issue forms', () => {
  const forms = () =>
    readdirSync(join(ROOT, FORMS))
      .filter((name) => name !== 'config.yml')
      .map((name) => yaml<Form>(`${FORMS}/${name}`))

  it('are forms', () => {
    assert.equal(forms().length, 2)
    for (const form of forms()) {
      for (const key of Object.keys(form))
        assert(['name', 'description', 'labels', 'body'].includes(key), key)
      const asked = form.body.filter(({ type }) => type !== 'markdown')
      assert(asked.length > 0)
      const labels = asked.map(({ attributes }) => attributes.label)
      assert.equal(new Set(labels).size, labels.length)
      const ids = asked.map(({ id = '' }) => id)
      assert.equal(new Set(ids).size, ids.length)
      for (const id of ids) assert.match(id, /^[a-z][\w-]*$/)
      for (const { type, attributes } of form.body) {
        const [first = '', ...others] = ELEMENTS[type] ?? assert.fail(type)
        assert(attributes[first], type)
        for (const key of Object.keys(attributes)) assert([first, ...others].includes(key), key)
      }
    }
  })

  it('ask for what the host is, as the command says it', () => {
    for (const { name, body } of forms()) {
      const doctor = body.find(({ attributes }) => String(attributes.label).includes('`vfio doctor --json`'))
      assert.equal(doctor?.validations?.required, true, name)
      assert.equal(doctor?.attributes.render, 'json', name)
    }
  })
})

describe('SECURITY.md', () => {
  it('says what counts, what a report has, and what happens then', () => {
    const text = read('SECURITY.md')
    for (const part of ['root', 'journal', 'How to report', 'vfio doctor --json', 'What happens then']) {
      assert(text.includes(part), part)
    }
  })
})
