import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'
import { FakeKubelet } from '../kubernetes/fake-kubelet.js'
import { DEPLOY, ROOT } from '../kubernetes/manifests.js'
import { Containers } from './containers.js'
import type { Said, Task } from './guest-program.js'

const IMAGE = 'localhost/vfio-device-plugin:test'
const BASE = 'localhost/base'
/** Beside its base, of which Node is most. */
const LARGEST = 40 * 2 ** 20
const RESOURCE = 'example.com/none'
/** A node with disks, in a guest of the lab. */
const GUEST = [
  ...[
    '--import',
    'tsx',
    join(ROOT, 'scripts/lab/main.ts'),
    '--kernel',
    '6.12',
    '--no-vfio',
    '--timeout',
    '900',
  ],
  ...['--topology', join(ROOT, 'scripts/lab/topologies/disks.args'), '--', process.execPath],
  fileURLToPath(new URL('guest-program.js', import.meta.url)),
]

interface Container {
  readonly args: readonly string[]
  readonly securityContext: {
    readonly privileged?: boolean
    readonly readOnlyRootFilesystem?: boolean
    readonly runAsUser?: number
    readonly capabilities?: { readonly drop?: readonly string[] }
  }
  readonly volumeMounts: readonly { readonly mountPath: string; readonly readOnly?: boolean }[]
}

const podSpec = (path: string) =>
  parse(readFileSync(join(DEPLOY, 'kustomize', path), 'utf8')).spec.template.spec as {
    readonly containers: readonly [Container]
    readonly initContainers: readonly [Container]
  }

describe('the image', function () {
  this.timeout(1_800_000)
  let containers: Containers
  /** Stands for the node: what the pod mounts of it. */
  let node: string
  before(async () => {
    containers = new Containers()
    node = join(containers.directory, 'node')
    const script = (name: string) => ['--import', 'tsx', join(ROOT, 'scripts/image', name)]
    const root = await containers.succeed(process.execPath, ...script('base.ts'))
    const base = (await containers.succeed('buildah', 'from', 'scratch')).trim()
    await containers.succeed('buildah', 'add', '--quiet', base, root.trim(), '/')
    await containers.succeed('buildah', 'commit', '--quiet', '--rm', base, BASE)
    await containers.succeed(process.execPath, ...script('main.ts'), '--tag', IMAGE, '--base', BASE)
    mkdirSync(join(node, 'etc/vfio-device-plugin'), { recursive: true })
    writeFileSync(
      join(node, 'etc/vfio-device-plugin/config.yaml'),
      `resources: [{ name: ${RESOURCE}, consumer: kubevirt, select: [{ ids: "ffff:fffe" }] }]\n`,
    )
  })
  after(() => containers?.remove())

  const podman = (...args: readonly string[]) => containers.succeed('podman', ...args)

  /** Unprivileged, as the pod's container is, whoever it runs as. */
  const bare = (...args: readonly string[]) =>
    podman(
      ...['run', '--rm', '--network', 'none', '--read-only', '--cap-drop', 'all'],
      ...['--security-opt', 'no-new-privileges', ...args],
    )

  /** What the pod says of a container, as podman takes it. */
  function asPod(
    { securityContext, volumeMounts }: Container,
    sourceOf: (mountPath: string) => string,
  ): string[] {
    const { privileged, readOnlyRootFilesystem, runAsUser, capabilities } = securityContext
    return [
      ...(privileged ? ['--privileged'] : ['--security-opt', 'no-new-privileges']),
      ...(readOnlyRootFilesystem ? ['--read-only', '--read-only-tmpfs=false'] : []),
      ...(runAsUser === undefined ? [] : ['--user', String(runAsUser)]),
      ...(capabilities?.drop ?? []).flatMap((name) => ['--cap-drop', name.toLowerCase()]),
      ...volumeMounts.flatMap(({ mountPath, readOnly }) => {
        return ['--volume', `${sourceOf(mountPath)}:${mountPath}:${readOnly ? 'ro' : 'rw'}`]
      }),
    ]
  }

  /** On this machine, which is no node but for its `/sys` and modules. */
  function here(container: Container): string[] {
    const sourceOf = (mountPath: string) => {
      const source = ['/sys', '/lib/modules'].includes(mountPath) ? mountPath : join(node, mountPath)
      mkdirSync(source, { recursive: true })
      return source
    }
    return [...asPod(container, sourceOf), IMAGE, ...container.args]
  }

  it('is small, and runs as nobody unless it is told otherwise', async () => {
    const sizeOf = async (image: string) =>
      Number(await podman('image', 'inspect', '--format', '{{.Size}}', image))
    const own = (await sizeOf(IMAGE)) - (await sizeOf(BASE))
    assert.ok(own > 0 && own < LARGEST, `${own} bytes`)
    const script = 'console.log(process.getuid(), process.getgid())'
    assert.equal(await bare('--entrypoint', 'node', IMAGE, '-e', script), '65532 65532\n')
  })

  it('has both commands, the addon, and what loads modules', async () => {
    const { version } = JSON.parse(readFileSync(join(ROOT, 'kubernetes/package.json'), 'utf8'))
    assert.equal((await bare(IMAGE, '--version')).trim(), version)
    const { host } = JSON.parse(await bare('--entrypoint', 'vfio', IMAGE, 'list', '--json'))
    // It says why, where there is none.
    assert.ok(!('addon' in host), JSON.stringify(host.addon))
    assert.match(await bare('--entrypoint', 'modprobe', IMAGE, '--version'), /^kmod/)
    const labels = JSON.parse(await podman('image', 'inspect', '--format', '{{json .Labels}}', IMAGE))
    assert.equal(labels['org.opencontainers.image.version'], version)
  })

  it('prints what would be offered, as nobody', async () => {
    const config = `${join(node, 'etc/vfio-device-plugin')}:/config:ro`
    assert.equal(
      await bare('--volume', config, IMAGE, '--config', '/config/config.yaml', '--dry-run'),
      `${RESOURCE} for kubevirt: no device on this host\n`,
    )
  })

  it('serves the kubelet as the pod says, without a capability, and is asked for its health', async () => {
    const [plugin] = podSpec('base/daemonset.yaml').containers
    const kubelet = new FakeKubelet(join(node, 'var/lib/kubelet'))
    await kubelet.start()
    try {
      await podman('run', '--detach', '--name', 'plugin', '--network', 'none', ...here(plugin))
      try {
        await kubelet.until('it registers', (seen) => seen.devices(RESOURCE) !== null, 300)
      } catch (error) {
        const { stdout, stderr } = await containers.run('podman', 'logs', 'plugin')
        throw new Error(`${(error as Error).message}\n${stdout}${stderr}`)
      }
      assert.deepEqual(kubelet.devices(RESOURCE), [])
      const status = await podman('exec', 'plugin', 'cat', '/proc/1/status')
      assert.match(status, /^CapEff:\t0{16}$/m)
      assert.match(status, /^NoNewPrivs:\t1$/m)
      const url = `http://127.0.0.1:${plugin.args.at(-1)}/healthz`
      const ask = `const r = await fetch('${url}'); console.log(r.status, await r.text())`
      assert.equal(await podman('exec', 'plugin', 'node', '--input-type=module', '-e', ask), '200 ok\n\n')
      await podman('stop', '--time', '120', 'plugin')
      const ended = await podman('inspect', '--format', '{{.State.ExitCode}}', 'plugin')
      assert.equal(ended.trim(), '0')
      await kubelet.until('its stream has ended', (seen) => !seen.listensTo(RESOURCE))
    } finally {
      kubelet.stop()
    }
  })

  it('binds as the pod says', async () => {
    const [bind] = podSpec('components/bind/patch.yaml').initContainers
    assert.equal(await podman('run', '--rm', '--network', 'host', '--pid', 'host', ...here(bind)), '')
  })

  it('binds the disks of a node with all that is in their groups, with modules of its own loading', async () => {
    const [bind] = podSpec('components/bind/patch.yaml').initContainers
    const config = join(node, 'etc/nodes-disks')
    mkdirSync(config)
    writeFileSync(
      join(config, 'config.yaml'),
      'resources: [{ name: example.com/nvme, consumer: kubevirt, select: [{ class: nvme }] }]\n',
    )
    const task: Task = {
      words: [
        ...['--network=host', '--pid=host'],
        ...asPod(bind, (mountPath) => (mountPath.includes('vfio-device-plugin') ? config : mountPath)),
        // What an image says of itself, which a directory does not.
        ...JSON.parse(await podman('image', 'inspect', '--format', '{{json .Config.Env}}', IMAGE)).map(
          (variable: string) => `--env=${variable}`,
        ),
      ],
      rootfs: (await podman('image', 'mount', IMAGE)).trim(),
      command: [
        ...JSON.parse(await podman('image', 'inspect', '--format', '{{json .Config.Entrypoint}}', IMAGE)),
        ...bind.args,
      ],
    }
    const said = await containers.succeed(process.execPath, ...GUEST, JSON.stringify(task))
    const { before, bound, released, hadVfio, journal, status, output } = JSON.parse(said) as Said
    assert.equal(status, 0, output)
    assert.equal(hadVfio, false, 'the image loads vfio-pci itself')
    assert.deepEqual(Object.values(before).sort(), [null, 'nvme', 'nvme', 'nvme'].sort(), output)
    assert.deepEqual([...new Set(Object.values(bound))], ['vfio-pci'], output)
    assert.equal(journal.length, 3, output)
    assert.deepEqual(released, before, output)
  })
})
