import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ROOT } from '../kubernetes/manifests.js'

/** Programs of containers with a store of their own, which needs neither systemd nor an overlay. */
export class Containers {
  // On a disk: an image with Node in it does not belong in memory.
  readonly directory = mkdtempSync(join(tmpdir(), 'vfio-image-'))
  readonly #environment: NodeJS.ProcessEnv

  constructor() {
    const file = (name: string, text: string) => {
      const path = join(this.directory, name)
      writeFileSync(path, text)
      return path
    }
    const quoted = (name: string) => JSON.stringify(join(this.directory, name))
    this.#environment = {
      ...process.env,
      BUILDAH_ISOLATION: 'oci',
      CONTAINERS_STORAGE_CONF: file(
        'storage.conf',
        `[storage]\ndriver = "vfs"\ngraphroot = ${quoted('store')}\nrunroot = ${quoted('run')}\n`,
      ),
      CONTAINERS_CONF: file(
        'containers.conf',
        [
          '[containers]',
          'default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]',
          '[engine]',
          'cgroup_manager = "cgroupfs"',
          'events_logger = "none"',
          'runtime = "runc"',
          '',
        ].join('\n'),
      ),
      REGISTRIES_CONFIG_PATH: file('registries.conf', ''),
      CONTAINERS_REGISTRIES_CONF: join(this.directory, 'registries.conf'),
    }
  }

  run(
    program: string,
    ...args: readonly string[]
  ): { status: number | null; stdout: string; stderr: string } {
    const { status, stdout, stderr, error } = spawnSync(program, args, {
      cwd: ROOT,
      encoding: 'utf8',
      env: this.#environment,
      maxBuffer: 1 << 26,
    })
    if (error) throw error
    return { status, stdout, stderr }
  }

  /** The same, and it must succeed. */
  succeed(program: string, ...args: readonly string[]): string {
    const { status, stdout, stderr } = this.run(program, ...args)
    if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${status}\n${stdout}${stderr}`)
    return stdout
  }

  remove(): void {
    this.run('podman', 'rm', '--all', '--force', '--time', '0')
    rmSync(this.directory, { recursive: true, force: true })
  }
}
