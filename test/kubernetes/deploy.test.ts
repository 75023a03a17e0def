import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync, realpathSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { Ajv } from 'ajv'
import { exportInventory, Host, VfioError } from 'vfio'
import { parse } from 'yaml'
import { parseConfig } from '../../kubernetes/src/config.js'
import { makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { describeLargeHost } from '../fixtures/large-host.js'
import { skip } from '../fixtures/skip.js'
import {
  charted,
  DEPLOY,
  hasTools,
  helm,
  kustomized,
  type Manifest,
  mistakesIn,
  ROOT,
  valuesFile,
} from './manifests.js'

const json = (path: string) => JSON.parse(readFileSync(path, 'utf8'))

interface Mount {
  readonly name: string
  readonly mountPath: string
  readonly readOnly?: boolean
}

interface Container {
  readonly name: string
  readonly image: string
  readonly args: readonly string[]
  readonly ports?: readonly { readonly name: string; readonly containerPort: number }[]
  readonly securityContext: {
    readonly privileged?: boolean
    readonly allowPrivilegeEscalation?: boolean
    readonly readOnlyRootFilesystem?: boolean
    readonly capabilities?: { readonly drop?: readonly string[]; readonly add?: readonly string[] }
  }
  readonly volumeMounts: readonly Mount[]
  readonly [probe: `${string}Probe`]: { readonly httpGet: { readonly path: string; readonly port: string } }
}

interface Volume {
  readonly name: string
  readonly hostPath?: { readonly path: string }
  readonly configMap?: { readonly name: string }
}

interface PodSpec {
  readonly containers: readonly Container[]
  readonly initContainers?: readonly Container[]
  readonly volumes: readonly Volume[]
  readonly hostPID?: boolean
  readonly hostNetwork?: boolean
  readonly automountServiceAccountToken?: boolean
  readonly securityContext: object
  readonly serviceAccountName?: string
}

interface DaemonSetSpec {
  readonly selector: { readonly matchLabels: Readonly<Record<string, string>> }
  readonly template: {
    readonly metadata: {
      readonly labels: Readonly<Record<string, string>>
      readonly annotations?: Readonly<Record<string, string>>
    }
    readonly spec: PodSpec
  }
}

const one = (manifests: readonly Manifest[], kind: string): Manifest => {
  const [found, ...others] = manifests.filter((manifest) => manifest.kind === kind)
  assert.ok(found !== undefined && others.length === 0, kind)
  return found
}
const daemonSet = (manifests: readonly Manifest[]) => one(manifests, 'DaemonSet').spec as DaemonSetSpec
const podOf = (manifests: readonly Manifest[]) => daemonSet(manifests).template.spec
const configText = (manifests: readonly Manifest[]) =>
  (one(manifests, 'ConfigMap').data as Record<string, string>)['config.yaml'] ?? ''
const pluginIn = (pod: PodSpec): Container => {
  const [plugin, ...others] = pod.containers
  assert.ok(plugin !== undefined && others.length === 0)
  return plugin
}

const CONSUMERS = ['kubevirt', 'kata'] as const
const overlay = (name: string) => join(DEPLOY, 'kustomize/overlays', name)
const FEATURES = '/etc/kubernetes/node-feature-discovery/features.d'
const exampleOf = (consumer: string) => parse(readFileSync(join(overlay(consumer), 'config.yaml'), 'utf8'))

/** An overlay with further components, as somebody's own kustomization. */
function withComponents(name: string, ...components: readonly string[]): string {
  const directory = temporaryDirectory()
  const to = (path: string) => relative(realpathSync(directory), join(DEPLOY, 'kustomize', path))
  writeFileSync(
    join(directory, 'kustomization.yaml'),
    JSON.stringify({
      resources: [to(`overlays/${name}`)],
      components: components.map((component) => to(`components/${component}`)),
    }),
  )
  return directory
}

/** With these values the chart is rendered. */
const VALUES: Readonly<Record<string, object>> = {
  'for KubeVirt': { config: exampleOf('kubevirt') },
  'for Kata': { config: exampleOf('kata') },
  'without binding': { config: exampleOf('kubevirt'), bind: { enabled: false } },
  'with everything else': {
    config: exampleOf('kata'),
    image: { repository: 'registry.example.com/vfio-device-plugin', tag: 'v1', pullPolicy: 'Always' },
    imagePullSecrets: [{ name: 'pull' }],
    iommufd: true,
    nodeLabels: true,
    kubeletDir: '/var/snap/kubelet',
    staticCdi: false,
    port: 8080,
    seLinuxOptions: { type: 'container_device_plugin_t' },
    resources: {},
    affinity: {
      nodeAffinity: {
        requiredDuringSchedulingIgnoredDuringExecution: {
          nodeSelectorTerms: [
            {
              matchExpressions: [
                { key: 'vfio.feature.node.kubernetes.io/groups', operator: 'Gt', values: ['0'] },
              ],
            },
          ],
        },
      },
    },
    tolerations: [],
    priorityClassName: '',
    podAnnotations: { 'example.com/a': 'b' },
    podLabels: { team: 'x' },
  },
}

describe('the deployment', function () {
  this.timeout(240_000)
  const rendered = new Map<string, readonly Manifest[]>()
  before(function () {
    if (!hasTools) return skip(this, 'helm and kubectl are there for x86-64 alone')
    for (const consumer of CONSUMERS) rendered.set(`overlay ${consumer}`, kustomized(overlay(consumer)))
    rendered.set('overlay kata with everything else', kustomized(withComponents('kata', 'iommufd', 'nfd')))
    for (const [name, values] of Object.entries(VALUES)) rendered.set(`chart ${name}`, charted(values))
  })
  after(removeDirectories)
  const all = (name: string): readonly Manifest[] => rendered.get(name) ?? assert.fail(name)

  it('is what the schemas of the Kubernetes API say', async () => {
    assert.deepEqual(await mistakesIn([...rendered.values()].flat()), [])
  })

  it('would be found wrong by these: what is missing, of another type, or unknown', async () => {
    const wrong = (change: (spec: { template: { spec: Record<string, unknown> } }) => void) => {
      const manifest = structuredClone(one(all('overlay kata'), 'DaemonSet'))
      change(manifest.spec as never)
      return manifest
    }
    const mistakes = await mistakesIn([
      wrong((spec) => Object.assign(spec.template.spec, { hostPID: 'yes' })),
      wrong((spec) => Object.assign(spec.template.spec, { hostPids: true })),
      wrong((spec) => Object.assign(spec, { selector: undefined })),
    ])
    assert.ok(mistakes.some((line) => /hostPID must be boolean/.test(line)))
    assert.ok(mistakes.some((line) => /hostPids.* does not exist/.test(line)))
    assert.ok(mistakes.some((line) => /selector/.test(line)))
  })

  it('has a configuration that the plugin takes, with the arguments that it is started with', () => {
    const mount = '/etc/vfio-device-plugin/config.yaml'
    const tried = new Set<string>()
    for (const [name, manifests] of rendered) {
      const text = configText(manifests)
      assert.ok(parseConfig(text, name).resources.length > 0)
      const file = join(temporaryDirectory(), 'config.yaml')
      writeFileSync(file, text)
      const pod = podOf(manifests)
      for (const { args } of [...(pod.initContainers ?? []), pluginIn(pod)]) {
        assert.ok(args.includes(mount), name)
        // What is said of configurations is above: a start takes long.
        if (tried.has(args.join())) continue
        tried.add(args.join())
        const { status, stderr } = spawnSync(
          process.execPath,
          [
            join(ROOT, 'kubernetes/bin/vfio-device-plugin.js'),
            ...args.map((word) => (word === mount ? file : word)),
            '--dry-run',
          ],
          { encoding: 'utf8' },
        )
        assert.equal(status, 0, `${args.join(' ')}\n${stderr}`)
      }
    }
  })

  it('leaves the plugin no privilege beside the places that it writes to', () => {
    for (const [name, manifests] of rendered) {
      const pod = podOf(manifests)
      const { securityContext, volumeMounts } = pluginIn(pod)
      assert.equal(securityContext.privileged, false)
      assert.equal(securityContext.allowPrivilegeEscalation, false)
      assert.equal(securityContext.readOnlyRootFilesystem, true)
      assert.deepEqual(securityContext.capabilities, { drop: ['ALL'] })
      const isKata = parseConfig(configText(manifests), name).resources.some(
        ({ consumer }) => consumer === 'kata',
      )
      assert.deepEqual(
        volumeMounts
          .filter(({ readOnly }) => !readOnly)
          .map(({ mountPath }) => mountPath)
          .sort(),
        [
          ...(name.endsWith('everything else') ? [FEATURES] : []),
          `${name === 'chart with everything else' ? '/var/snap/kubelet' : '/var/lib/kubelet'}/device-plugins`,
          ...(isKata ? ['/var/run/cdi'] : []),
        ].sort(),
        name,
      )
      assert.equal(pod.automountServiceAccountToken, false)
      assert.deepEqual((pod.securityContext as { seccompProfile: object }).seccompProfile, {
        type: 'RuntimeDefault',
      })
    }
  })

  it('binds in a container of its own that sees the processes and networks of the node, or nowhere', () => {
    for (const [name, manifests] of rendered) {
      const { initContainers = [], hostPID = false, hostNetwork = false } = podOf(manifests)
      const binds = name !== 'chart without binding'
      assert.deepEqual(
        initContainers.map(({ name: one, securityContext }) => [one, securityContext.privileged]),
        binds ? [['bind', true]] : [],
      )
      assert.deepEqual([hostPID, hostNetwork], [binds, binds], name)
    }
  })

  it('mounts what it has, and has what it mounts', () => {
    for (const [name, manifests] of rendered) {
      const pod = podOf(manifests)
      const mounted = [...(pod.initContainers ?? []), ...pod.containers].flatMap(
        ({ volumeMounts }) => volumeMounts,
      )
      assert.deepEqual(
        [...new Set(mounted.map((mount) => mount.name))].sort(),
        pod.volumes.map((volume) => volume.name).sort(),
        name,
      )
      const configMap = pod.volumes.find((volume) => volume.name === 'config')?.configMap?.name
      assert.equal(configMap, one(manifests, 'ConfigMap').metadata.name)
    }
  })

  it('asks for health where the plugin serves it, and finds its own pods', () => {
    for (const manifests of rendered.values()) {
      const spec = daemonSet(manifests)
      const plugin = pluginIn(spec.template.spec)
      const port = plugin.ports?.[0]
      assert.equal(plugin.args[plugin.args.indexOf('--port') + 1], String(port?.containerPort))
      for (const [probe, path] of [
        ['startupProbe', '/livez'],
        // A look that fails is no reason to kill it.
        ['livenessProbe', '/livez'],
        ['readinessProbe', '/healthz'],
      ] as const)
        assert.deepEqual(plugin[probe]?.httpGet, { path, port: port?.name })
      for (const [label, value] of Object.entries(spec.selector.matchLabels))
        assert.equal(spec.template.metadata.labels[label], value)
    }
  })

  it('is another pod where the configuration is another', () => {
    const sum = (config: object) =>
      daemonSet(charted({ config })).template.metadata.annotations?.['checksum/config']
    const [first, second] = CONSUMERS.map((consumer) => sum(exampleOf(consumer)))
    assert.match(first ?? '', /^[0-9a-f]{64}$/)
    assert.notEqual(first, second)
    const names = CONSUMERS.map((consumer) => one(all(`overlay ${consumer}`), 'ConfigMap').metadata.name)
    assert.notEqual(names[0], names[1])
  })

  describe('by chart', () => {
    it('is the pod of the overlay', () => {
      for (const [consumer, name] of [
        ['kubevirt', 'chart for KubeVirt'],
        ['kata', 'chart for Kata'],
      ] as const) {
        const sorted = <T extends { readonly name: string }>(list: readonly T[] = []) =>
          [...list].sort((a, b) => (a.name < b.name ? -1 : 1))
        const plain = (manifests: readonly Manifest[]) => {
          const pod = podOf(manifests)
          const containers = (list: readonly Container[] = []) =>
            list.map((container) => ({
              ...container,
              imagePullPolicy: 'IfNotPresent',
              volumeMounts: sorted(container.volumeMounts),
            }))
          return {
            ...pod,
            containers: containers(pod.containers),
            initContainers: containers(pod.initContainers),
            volumes: sorted(pod.volumes).map((volume) =>
              volume.configMap ? { ...volume, configMap: {} } : volume,
            ),
          }
        }
        assert.deepEqual(plain(all(name)), plain(all(`overlay ${consumer}`)))
        assert.deepEqual(
          parseConfig(configText(all(name)), ''),
          parseConfig(configText(all(`overlay ${consumer}`)), ''),
        )
      }
    })

    it('takes every value', () => {
      const manifests = all('chart with everything else')
      const pod = podOf(manifests)
      const plugin = pluginIn(pod)
      assert.equal(plugin.image, 'registry.example.com/vfio-device-plugin:v1')
      // Where it is on the node, since the length of a socket's path is limited there.
      assert.equal(plugin.args[plugin.args.indexOf('--kubelet-dir') + 1], '/var/snap/kubelet')
      const paths = pod.volumes.flatMap(({ hostPath }) => hostPath?.path ?? [])
      for (const path of ['/var/snap/kubelet/device-plugins', '/dev/iommu', FEATURES])
        assert.ok(paths.includes(path), path)
      const own = podOf(all('overlay kata with everything else')).volumes
      assert.ok(own.some(({ hostPath }) => hostPath?.path === '/dev/iommu'))
      assert.ok(!paths.includes('/etc/cdi'))
      const text = JSON.stringify(one(manifests, 'DaemonSet'))
      for (const word of ['container_device_plugin_t', '"pull"', 'feature.node', 'example.com/a', '"team"'])
        assert.ok(text.includes(word), word)
    })

    it('has the versions of the package, and a description of every value', () => {
      const { version } = json(join(ROOT, 'kubernetes/package.json'))
      const chart = parse(readFileSync(join(DEPLOY, 'chart/Chart.yaml'), 'utf8'))
      assert.deepEqual([chart.version, chart.appVersion], [version, version])
      assert.ok(
        readFileSync(join(DEPLOY, 'kustomize/base/daemonset.yaml'), 'utf8').includes(
          `vfio-device-plugin:${version}`,
        ),
      )
      const values = parse(readFileSync(join(DEPLOY, 'chart/values.yaml'), 'utf8'))
      const schema = json(join(DEPLOY, 'chart/values.schema.json'))
      const { global, ...properties } = schema.properties
      assert.deepEqual(Object.keys(properties).sort(), Object.keys(values).sort())
      const config = json(join(ROOT, 'kubernetes/schemas/config.json'))
      const { description, type, additionalProperties, required, properties: parts } = config
      assert.deepEqual(properties.config, {
        description,
        type,
        additionalProperties,
        required,
        properties: parts,
      })
      // Of names more than the form, since nothing says more before a pod is there.
      assert.deepEqual({ ...schema.definitions, name: null }, { ...config.definitions, name: null })
    })

    it('takes the names that the kubelet takes, and no others', () => {
      const { name } = json(join(DEPLOY, 'chart/values.schema.json')).definitions
      const isTaken = new Ajv().compile(name)
      for (const [text, isFine] of [
        ['example.com/gpu', true],
        ['a/B_c.d-e', true],
        ['kubernetes.io.example.com/gpu', true],
        [`example.com/${'a'.repeat(63)}`, true],
        [`example.com/${'a'.repeat(64)}`, false],
        ['gpu', false],
        ['a.b/c/d', false],
        ['Example.com/gpu', false],
        ['a..b/gpu', false],
        ['a.b/-gpu', false],
        ['kubernetes.io/gpu', false],
        ['mykubernetes.io/gpu', false],
        ['requests.example.com/gpu', false],
      ] as const) {
        assert.equal(isTaken(text), isFine, text)
        const config = { resources: [{ name: text, consumer: 'plain', select: [{ numa: 0 }] }] }
        const parsed = () => parseConfig(JSON.stringify(config), text)
        if (isFine) parsed()
        else assert.throws(parsed, VfioError, text)
      }
    })

    it('passes helm lint', () => {
      const { status, stdout } = helm(
        ...['lint', '--strict', join(DEPLOY, 'chart'), '--values', valuesFile(VALUES['for Kata'] ?? {})],
      )
      assert.equal(status, 0, stdout)
    })

    it('refuses values that it does not know, and a configuration that the plugin would refuse, by their places', () => {
      const refuses = (values: object, words: RegExp) => {
        const { status, stdout, stderr } = helm(
          ...['template', 'x', join(DEPLOY, 'chart'), '--values', valuesFile(values)],
        )
        assert.deepEqual([status === 0, stdout], [false, ''])
        assert.match(stderr, words)
      }
      const config = exampleOf('kubevirt')
      const [resource] = config.resources
      refuses({}, /at '\/config': missing property 'resources'/)
      refuses({ config, ports: 1 }, /additional properties 'ports' not allowed/)
      refuses({ config, port: 0 }, /at '\/port'/)
      refuses({ config, kubeletDir: 'var/lib' }, /at '\/kubeletDir'/)
      refuses(
        { config: { resources: [{ ...resource, consumer: 'virt' }] } },
        /at '\/config\/resources\/0\/consumer'/,
      )
      refuses({ config: { resources: [] } }, /at '\/config\/resources'/)
      for (const name of [
        'x.kubernetes.io/gpu',
        'mykubernetes.io/gpu',
        'requests.example.com/gpu',
        'Example.com/a',
        'a.b/-',
      ])
        refuses({ config: { resources: [{ ...resource, name }] } }, /at '\/config\/resources\/0\/name'/)
    })
  })
})

describe('attributes of the inventory', function () {
  this.timeout(120_000)
  before(function () {
    if (!hasTools) skip(this, 'what has the schemas is installed with helm, for x86-64 alone')
  })
  after(removeDirectories)

  it('are those of a ResourceSlice', async () => {
    const { devices } = exportInventory(new Host(makeHost({ devices: describeLargeHost(40) })).snapshot())
    const typed = (value: string | number | boolean) =>
      typeof value === 'string'
        ? { string: value }
        : typeof value === 'number'
          ? { int: value }
          : { bool: value }
    const slice = {
      apiVersion: 'resource.k8s.io/v1',
      kind: 'ResourceSlice',
      metadata: { name: 'node-vfio' },
      spec: {
        driver: 'vfio.example.com',
        nodeName: 'node',
        pool: { name: 'node', generation: 1, resourceSliceCount: 1 },
        devices: devices.map(({ address, attributes }) => ({
          name: address.replace(/[:.]/g, '-'),
          attributes: Object.fromEntries(
            Object.entries(attributes).map(([name, value]) => [name, typed(value)]),
          ),
        })),
      },
    }
    assert.deepEqual(await mistakesIn([slice]), [])
  })
})
